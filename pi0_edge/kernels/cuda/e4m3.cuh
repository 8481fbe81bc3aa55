// E4M3 numbers: a sign, four bits of exponent with a bias of 7, three of fraction. There is no infinity; NaN has all other
// bits set.
//
// The instruction that converts to E4M3 begins with sm_89. This is arithmetic that every GPU has, and gives the same bits.
#pragma once

#include "device.cuh"

namespace pi0 {

struct e4m3 {
  uint8_t bits;
};

// Rounded to nearest even, larger values to ±448; NaN stays NaN.
__device__ inline e4m3 to_e4m3(float x) {
  constexpr unsigned infinity = 0x7f800000u, largest = 0x43e00000u;          // 448
  constexpr unsigned smallest_normal = 0x3c800000u, lifted = 0x46800000u;    // 2^-6, 2^14
  constexpr unsigned below_fraction = 20, bias = (127 - 7) << 3, nan = 0x7f; // float has 20 bits of fraction more
  const unsigned bits = __float_as_uint(x), sign = bits >> 24 & 0x80u, magnitude = min(bits & 0x7fffffffu, largest);
  unsigned rounded;
  if (magnitude < smallest_normal)  // multiples of 2^-9, which is the last place of float from 2^14 on: adding it rounds
    rounded = __float_as_uint(__uint_as_float(magnitude) + __uint_as_float(lifted)) - lifted;
  else  // half of the last place, less one unless what is kept is odd, carries into it
    rounded = ((magnitude + 0x7ffffu + (magnitude >> below_fraction & 1u)) >> below_fraction) - bias;
  if ((bits & 0x7fffffffu) > infinity) rounded = nan;
  return {static_cast<uint8_t>(sign | rounded)};
}

}  // namespace pi0

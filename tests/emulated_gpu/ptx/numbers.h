// The number formats of PTX that C++ does not have.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace pi0_ptx {

inline float float_of(uint32_t bits) {
  float value;
  return memcpy(&value, &bits, 4), value;
}
inline uint32_t bits_of_float(float value) {
  uint32_t bits;
  return memcpy(&bits, &value, 4), bits;
}

inline float from_bf16(uint16_t bits) { return float_of(static_cast<uint32_t>(bits) << 16); }

// Rounded to nearest even; every NaN becomes 0x7fff, as `cvt` says.
inline uint16_t to_bf16(float value) {
  const uint32_t bits = bits_of_float(value);
  return std::isnan(value) ? 0x7fff : static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// The exponent of fp16 counts from -15, that of float from -127: moved as it is, the number is 2^112 times too small.
inline float from_fp16(uint16_t bits) {
  const uint32_t moved = static_cast<uint32_t>(bits & 0x7fff) << 13, sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t size = (bits & 0x7c00) == 0x7c00 ? moved | 0x7f800000 : bits_of_float(float_of(moved) * 0x1p112f);
  return float_of(size | sign);
}
inline uint16_t to_fp16(float value) {
  if (std::isnan(value)) return 0x7fff;
  const auto narrow = static_cast<_Float16>(value);
  uint16_t bits;
  return memcpy(&bits, &narrow, 2), bits;
}

// E4M3: exponents from -7, no infinity, all ones is NaN.
inline float from_e4m3(uint8_t bits) {
  const int exponent = bits >> 3 & 15, mantissa = bits & 7;
  if ((bits & 127) == 127) return NAN;
  const float size = exponent ? ldexpf(static_cast<float>(8 + mantissa), exponent - 10) : ldexpf(static_cast<float>(mantissa), -9);
  return bits & 128 ? -size : size;
}

}  // namespace pi0_ptx

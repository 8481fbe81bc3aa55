// What matrix products need beyond device.cuh: arithmetic that is rounded after every operation, so that the torch
// reference gives the same bits; unpacking of one-byte weights; tickets; and the FP8 tensor core.
#pragma once

#include "device.cuh"

namespace pi0::gemm {

__device__ __forceinline__ int thread_index() { return static_cast<int>(threadIdx.x & 1023u); }

#ifndef PI0_PLAIN_CPP

__device__ __forceinline__ float times(float x, float y) { return __fmul_rn(x, y); }
__device__ __forceinline__ float plus(float x, float y) { return __fadd_rn(x, y); }
__device__ __forceinline__ float divided(float x, float y) { return __fdiv_rn(x, y); }

// The same, but read anew: what is derived from it is not kept in registers during the steps before.
__device__ __forceinline__ int thread_index_again() {
  unsigned index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  return static_cast<int>(index & 1023u);
}

// Bytes of x (0 to 3) and y (4 to 7), chosen by the four hexadecimal digits of `selector`, lowest first.
__device__ __forceinline__ unsigned chosen_bytes(unsigned x, unsigned y, unsigned selector) {
  return __byte_perm(x, y, selector);
}

__device__ __forceinline__ unsigned bits_of(__half2 x) { return *reinterpret_cast<unsigned *>(&x); }
__device__ __forceinline__ unsigned bits_of(__nv_bfloat162 x) { return *reinterpret_cast<unsigned *>(&x); }

// Of two 16-bit floats in one register each.
__device__ __forceinline__ unsigned minus_pair(fp16, unsigned x, unsigned y) {
  return bits_of(__hsub2(*reinterpret_cast<__half2 *>(&x), *reinterpret_cast<__half2 *>(&y)));
}
__device__ __forceinline__ unsigned times_pair(bf16, unsigned x, unsigned y) {
  return bits_of(__hmul2(*reinterpret_cast<__nv_bfloat162 *>(&x), *reinterpret_cast<__nv_bfloat162 *>(&y)));
}

// How many came before, counted from 0; after `last` the count starts anew.
__device__ __forceinline__ unsigned take_ticket(unsigned *counter, unsigned last) { return atomicInc(counter, last); }

// What other blocks wrote in this launch: not from the cache of this multiprocessor.
__device__ __forceinline__ Vector<int, 4> written_by_others(const Vector<int, 4> *at) {
  const int4 read = __ldcg(reinterpret_cast<const int4 *>(at));
  return {{read.x, read.y, read.z, read.w}};
}
__device__ __forceinline__ Vector<float, 4> written_by_others(const Vector<float, 4> *at) {
  const float4 read = __ldcg(reinterpret_cast<const float4 *>(at));
  return {{read.x, read.y, read.z, read.w}};
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 890
#define PI0_HAS_FP8 1
#else
#define PI0_HAS_FP8 0
#endif

// sums[16x8] += a[16x32] · b[32x8] of E4M3, in float; only where PI0_HAS_FP8.
__device__ __forceinline__ void multiply_add_e4m3(float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
#if PI0_HAS_FP8
  asm("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

#else

#define PI0_HAS_FP8 1

inline int thread_index_again() { return thread_index(); }

inline float times(float x, float y) { return x * y; }
inline float plus(float x, float y) { return x + y; }
inline float divided(float x, float y) { return x / y; }

inline unsigned chosen_bytes(unsigned x, unsigned y, unsigned selector) {
  const uint64_t both = static_cast<uint64_t>(y) << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; i++) result |= static_cast<unsigned>(both >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
  return result;
}

template <class T, class Function> unsigned by_pair(unsigned x, unsigned y, Function function) {
  T a[2], b[2], result[2];
  memcpy(a, &x, 4), memcpy(b, &y, 4);
  for (int i = 0; i < 2; i++) result[i] = from_float<T>(function(to_float(a[i]), to_float(b[i])));
  return memcpy(&x, result, 4), x;
}
inline unsigned minus_pair(fp16, unsigned x, unsigned y) { return by_pair<fp16>(x, y, std::minus<float>()); }
inline unsigned times_pair(bf16, unsigned x, unsigned y) { return by_pair<bf16>(x, y, std::multiplies<float>()); }

inline unsigned take_ticket(unsigned *counter, unsigned last) {
  const unsigned taken = *counter;
  *counter = taken >= last ? 0 : taken + 1;
  return taken;
}

template <class T> T written_by_others(const T *at) { return *at; }

struct E4M3 {
  uint8_t bits;
};
inline double number(E4M3 x) {
  const int exponent = x.bits >> 3 & 15, mantissa = x.bits & 7;
  if ((x.bits & 127) == 127) return NAN;
  const double size = exponent ? ldexp(8 + mantissa, exponent - 10) : ldexp(mantissa, -9);
  return x.bits & 128 ? -size : size;
}
inline void multiply_add_e4m3(float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  multiply_add_emulated<E4M3, double>(sums, a, b0, b1);
}

#endif

}  // namespace pi0::gemm

// The vocabulary that the kernels are written in: number types, warp reductions, asynchronous copies, tensor cores.
//
// Everything below that is not plain C++ exists twice: here for the GPU, and in tests/emulated_gpu/emulation.h for the CPU, where the
// tests run the same sources. driver_api.h has it without a body, for the host code of a Jetson's library. A kernel therefore uses no inline assembly of its own, takes shared memory only through
// `shared_memory`, and lets whole warps take part in every warp-wide function.
#pragma once

#include "pi0_kernels.h"

#if defined PI0_EMULATION
#define PI0_PLAIN_CPP
#include "emulation.h"
#elif defined PI0_DRIVER_API
#define PI0_PLAIN_CPP
#include "driver_api.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

namespace pi0 {

using bf16 = __nv_bfloat16;
using fp16 = __half;

constexpr int warp_size = 32;
constexpr int l2_line = 128;  // bytes

// Number types

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(fp16 x) { return __half2float(x); }

// Rounded to nearest even.
template <class T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) { return __float2bfloat16_rn(x); }
template <> __device__ __forceinline__ fp16 from_float<fp16>(float x) { return __float2half_rn(x); }

// `count` neighbours that are loaded and stored by one instruction.
template <class T, int count> struct alignas(sizeof(T) * count) Vector {
  T at[count];
};

// Two neighbours as one register of a tensor-core operand.
template <class T> __device__ __forceinline__ unsigned pack(float low, float high) {
  const Vector<T, 2> pair{from_float<T>(low), from_float<T>(high)};
  unsigned bits;
  memcpy(&bits, &pair, sizeof bits);
  return bits;
}

__device__ __forceinline__ float silu(float x) { return x / (1.0f + __expf(-x)); }

// x / 2 · (1 + tanh(√(2/π) (x + 0.044715 x³))), with 1 + tanh(u) = 2 / (1 + exp(-2u)).
__device__ __forceinline__ float gelu_tanh(float x) {
  return __fdividef(x, 1.0f + __expf(-1.5957691216f * (x + 0.044715f * x * x * x)));
}

__host__ __device__ constexpr int divide_up(int64_t count, int64_t size) { return static_cast<int>((count + size - 1) / size); }

// Warps

__device__ __forceinline__ float warp_sum(float x) {
  for (int lanes = warp_size / 2; lanes > 0; lanes /= 2) x += __shfl_xor_sync(0xffffffffu, x, lanes);
  return x;
}

#ifndef PI0_PLAIN_CPP

// The larger one, or NaN if either is NaN: a damaged value must not vanish in a maximum.
__device__ __forceinline__ float max_or_nan(float a, float b) {
  float larger;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(a), "f"(b));
  return larger;
}

// Shared memory: all of it belongs to one struct, whose size is given to `launch`.
template <class T> __device__ __forceinline__ T &shared_memory() {
  extern __shared__ __align__(128) unsigned char bytes[];
  return *reinterpret_cast<T *>(bytes);
}

// Asynchronous copies of 16 bytes from global to shared memory. Where `valid` is false, zeros are written and nothing is
// read. A thread sees its own copies after `wait_for_copies`, those of others after a barrier as well.

__device__ __forceinline__ void copy_async(void *shared, const void *global, bool valid = true) {
  const auto target = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(global), "r"(valid ? 16 : 0)
               : "memory");
}

// Asks for one line of the L2 cache, and waits for nothing.
__device__ __forceinline__ void prefetch_l2(const void *line) { asm volatile("prefetch.global.L2 [%0];" ::"l"(line)); }

__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `pending` of the committed groups are still under way.
template <int pending> __device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// Tensor cores. Register layouts are those of the PTX manual, "Matrix Fragments for mma.m16n8k16" and "m16n8k32".

// Four 8x8 matrices of 16-bit values; lane 8·i + r gives the address of row r of matrix i.
__device__ __forceinline__ void load_matrices(unsigned (&to)[4], const void *row) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(unsigned (&to)[4], const void *row) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}

// sums[16x8] += a[16x16] · b[16x8], in float.
template <class T>
__device__ __forceinline__ void multiply_add(float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1);

template <>
__device__ __forceinline__ void multiply_add<bf16>(float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void multiply_add<fp16>(float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// sums[16x8] += a[16x32] · b[32x8] of int8, exactly, in int32.
__device__ __forceinline__ void multiply_add(int (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Enqueues kernel<<<grid, block, shared, stream>>>(arguments...), unless the grid is empty.
template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared, int64_t stream,
           Arguments... arguments) {
  if (grid.x * grid.y * grid.z == 0) return cudaSuccess;
  if (shared > 48 * 1024) {
    const cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel),
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                   static_cast<int>(shared));
    if (error != cudaSuccess) return error;
  }
  kernel<<<grid, block, shared, reinterpret_cast<cudaStream_t>(stream)>>>(static_cast<Parameters>(arguments)...);
  return cudaGetLastError();
}

#endif

__device__ __forceinline__ float warp_max(float x) {
  for (int lanes = warp_size / 2; lanes > 0; lanes /= 2) x = max_or_nan(x, __shfl_xor_sync(0xffffffffu, x, lanes));
  return x;
}

// Bytes of shared memory that a block may take on the current device, where its kernel asks for more than usual.
inline cudaError_t shared_memory_of_device(int &bytes) {
  int device = 0;
  const cudaError_t error = cudaGetDevice(&device);
  return error == cudaSuccess ? cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) : error;
}

// Calls run(T *) with a null pointer of the 16-bit type that a pi0_type names.
template <class Run> int with_16_bit_type(int64_t type, Run run) {
  if (type == PI0_BF16) return run(static_cast<bf16 *>(nullptr));
  if (type == PI0_FP16) return run(static_cast<fp16 *>(nullptr));
  return cudaErrorInvalidValue;
}

}  // namespace pi0

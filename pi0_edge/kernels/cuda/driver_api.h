// The host half of these sources for a plain C++ compiler: no nvcc, no CUDA runtime, one launch through the driver.
//
// A Jetson's library is made of two halves (tools/jetson_kernels.py). NVRTC, the compiler of each CUDA version, makes the
// device code; it lies in the library as it came (`pi0_images`). Any C++ compiler makes the host code from the same
// sources with PI0_DRIVER_API: what follows here replaces the vocabulary of device.cuh. A kernel is then an ordinary
// function that nobody calls. `launch` takes its address, asks the linker for the name, and the driver for the device
// code of that name; both compilers give a kernel the same name. The bodies are empty: every device function ends in a
// trap, so that the compiler drops what follows it.
#pragma once

#include <stdint.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <tuple>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__

// The numbers of CUresult and of cudaError_t are the same, but for insufficientDriver, which the driver does not know.
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorSymbolNotFound = 500,
  cudaErrorNotSupported = 801,
};
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };
struct cudaFuncAttributes { int ptxVersion; };

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// Device code in this library, made by one version of CUDA for one GPU; a table that the build writes.
struct pi0_image {
  int64_t cuda;          // as cuDriverGetVersion says it: 12060 for 12.6
  int64_t architecture;  // 87 for Orin
  const void *code;
  int64_t bytes;
};
extern "C" const pi0_image pi0_images[];
extern "C" const int64_t pi0_image_count;

namespace pi0::driver {

// The GPU of this thread is there and its device code is loaded: 0; otherwise what every launch would answer.
int ready();
// What an error means, in words; about a driver or GPU that this library cannot use, with what was found.
const char *text(int error);
int attribute_of_device(int *value, int attribute);
int attribute_of_kernel(int *value, int attribute, const void *kernel);
int launch(const void *kernel, dim3 grid, dim3 block, size_t shared, int64_t stream, void **arguments);

constexpr int ptx_version = 5;  // CU_FUNC_ATTRIBUTE_PTX_VERSION

}  // namespace pi0::driver

inline const char *cudaGetErrorString(cudaError_t error) { return pi0::driver::text(error); }
inline cudaError_t cudaGetDeviceCount(int *count) {
  *count = 1;  // the one that `ready` found
  return static_cast<cudaError_t>(pi0::driver::ready());
}
inline cudaError_t cudaGetDevice(int *device) {
  *device = 0;  // `attribute_of_device` asks about that of this thread
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int) {
  return static_cast<cudaError_t>(pi0::driver::attribute_of_device(value, attribute));
}
inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, const void *kernel) {
  return static_cast<cudaError_t>(
      pi0::driver::attribute_of_kernel(&attributes->ptxVersion, pi0::driver::ptx_version, kernel));
}

// What kernels name. The types have the names of CUDA, which are part of the names of kernels.
struct __nv_bfloat16 { uint16_t bits; };
struct __half { uint16_t bits; };
struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(4) char4 { signed char x, y, z, w; };
using std::max;
using std::min;

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

inline void __syncthreads() { __builtin_trap(); }
inline void __syncwarp() { __builtin_trap(); }
inline void __threadfence() { __builtin_trap(); }
inline float rsqrtf(float) { __builtin_trap(); }
inline float __expf(float) { __builtin_trap(); }
inline float __fdividef(float, float) { __builtin_trap(); }
inline float __bfloat162float(__nv_bfloat16) { __builtin_trap(); }
inline float __half2float(__half) { __builtin_trap(); }
inline __nv_bfloat16 __float2bfloat16_rn(float) { __builtin_trap(); }
inline __half __float2half_rn(float) { __builtin_trap(); }
inline int __float2int_rn(float) { __builtin_trap(); }
inline float __int2float_rn(int) { __builtin_trap(); }
inline float __uint_as_float(unsigned) { __builtin_trap(); }
inline unsigned __float_as_uint(float) { __builtin_trap(); }
template <class T> inline T __ldg(const T *) { __builtin_trap(); }
template <class T> inline T __shfl_xor_sync(unsigned, T, int) { __builtin_trap(); }
template <class T> inline T __shfl_sync(unsigned, T, int) { __builtin_trap(); }
template <class T> inline T atomicAdd(T *, T) { __builtin_trap(); }

namespace pi0 {

inline float max_or_nan(float, float) { __builtin_trap(); }
template <class T> inline T &shared_memory() { __builtin_trap(); }
inline void copy_async(void *, const void *, bool = true) { __builtin_trap(); }
inline void commit_copies() { __builtin_trap(); }
inline void prefetch_l2(const void *) { __builtin_trap(); }
template <int pending> inline void wait_for_copies() { __builtin_trap(); }
inline void load_matrices(unsigned (&)[4], const void *) { __builtin_trap(); }
inline void load_matrices_transposed(unsigned (&)[4], const void *) { __builtin_trap(); }
template <class T> inline void multiply_add(float (&)[4], const unsigned (&)[4], unsigned, unsigned) {
  __builtin_trap();
}
inline void multiply_add(int (&)[4], const unsigned (&)[4], unsigned, unsigned) { __builtin_trap(); }
template <class T, class Wide>
inline void multiply_add_emulated(float (&)[4], const unsigned (&)[4], unsigned, unsigned) {
  __builtin_trap();
}

// Enqueues the kernel of this name on the stream, unless the grid is empty.
template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared, int64_t stream,
           Arguments... arguments) {
  if (grid.x * grid.y * grid.z == 0) return cudaSuccess;
  std::tuple<std::remove_cv_t<Parameters>...> values{static_cast<Parameters>(arguments)...};
  return std::apply(
      [&](auto &...value) {
        void *addresses[] = {static_cast<void *>(&value)...};
        return driver::launch(reinterpret_cast<const void *>(kernel), grid, block, shared, stream, addresses);
      },
      values);
}

}  // namespace pi0

// The library as a whole: its version, its errors, its device.
#include "device.cuh"

PI0_API int pi0_library_version(void) { return PI0_LIBRARY_VERSION; }

PI0_API int64_t pi0_gemm_size(void) { return sizeof(pi0_gemm); }

PI0_API const char *pi0_error_string(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

PI0_API int pi0_device_ready(void) {
  int devices = 0;
  return cudaGetDeviceCount(&devices);
}

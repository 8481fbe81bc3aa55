// The library as a whole: its version, its errors, its device.
#include "device.cuh"

PI0_API int pi0_library_version(void) { return PI0_LIBRARY_VERSION; }

PI0_API int64_t pi0_gemm_size(void) { return sizeof(pi0_gemm); }

PI0_API const char *pi0_error_string(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

// Of `embed_actions` with 64 tokens and a width of 1024; a test compares it with every kernel's.
constexpr int64_t most_shared_memory = 159744;

PI0_API int pi0_device_ready(int64_t *shared_needed, int64_t *shared_found) {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess) return error;
  int found = 0;
  *shared_needed = most_shared_memory;
  const int answer = pi0::shared_memory_of_device(found);
  *shared_found = found;
  return answer;
}

// out = epilogue(a · weightᵀ) in INT8 with exact sums, on the integer tensor cores of Ampere and later.
#include "gemm_bytes.cuh"

PI0_API int pi0_gemm_int8(const pi0_gemm *gemm, int64_t stream) {
  return gemm->a_scale == nullptr ? cudaErrorInvalidValue : pi0::gemm::launch_bytes<pi0::gemm::Int8>(*gemm, 1, stream);
}

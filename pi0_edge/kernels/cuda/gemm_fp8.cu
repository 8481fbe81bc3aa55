// out = epilogue(a · weightᵀ) in E4M3 with float sums, through the FP8 instruction mma.sync of Hopper and later.
//
// On Hopper and Thor the compiler turns this instruction into unpacking and fp16 products: it halves the bytes, not the
// arithmetic. The full FP8 rate needs wgmma or tcgen05, which this does not use.
//
// Where the code that was loaded for this GPU has no such tensor core (Ampere, Orin, or the PTX of this library) the call
// answers cudaErrorNotSupported; there is no slower way instead.
#include "gemm_bytes.cuh"

namespace {

#ifdef PI0_EMULATION
int has_fp8() { return cudaSuccess; }
#else
int has_fp8() {
  cudaFuncAttributes attributes;
  const auto kernel = pi0::gemm::bytes_kernel<pi0::gemm::Fp8, pi0::gemm::Tile<144, 128, 48, 4>>;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, reinterpret_cast<const void *>(kernel));
  return error != cudaSuccess ? error : attributes.ptxVersion < 89 ? cudaErrorNotSupported : cudaSuccess;
}
#endif

}  // namespace

PI0_API int pi0_gemm_fp8(const pi0_gemm *gemm, int64_t stream) {
  const int missing = has_fp8();
  if (missing != cudaSuccess) return missing;
  return gemm->a_scale == nullptr ? cudaErrorInvalidValue : pi0::gemm::launch_bytes<pi0::gemm::Fp8>(*gemm, 0, stream);
}

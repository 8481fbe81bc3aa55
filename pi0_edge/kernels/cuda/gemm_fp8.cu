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

PI0_API int pi0_gemm_fp8(const uint8_t *a, const uint8_t *weight, const float *a_scale, const float *column_scale,
                         const float *bias, const float *gate, const int *frozen, const void *residual,
                         const float *out_scale, void *out, void *workspace, int64_t workspace_bytes, int64_t m,
                         int64_t n, int64_t k, int64_t type, int64_t activation, int64_t tile, int64_t blocks,
                         int64_t stream) {
  using namespace pi0::gemm;
  const int missing = has_fp8();
  if (missing != cudaSuccess) return missing;
  BytesArguments arguments{};
  arguments.a = a;
  arguments.weight = weight;
  arguments.epilogue = {a_scale, 0, column_scale, bias, gate, frozen, residual, out_scale, out,
                        static_cast<pi0_type>(type), static_cast<Activation>(activation)};
  arguments.workspace.tickets = static_cast<unsigned *>(workspace);
  if (a_scale == nullptr) return cudaErrorInvalidValue;
  return launch_bytes<Fp8>(arguments, m, n, k, tile, blocks, workspace_bytes, stream);
}

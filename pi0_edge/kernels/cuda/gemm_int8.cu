// out = epilogue(a · weightᵀ) in INT8 with exact sums, on the integer tensor cores of Ampere and later.
#include "gemm_bytes.cuh"

PI0_API int pi0_gemm_int8(const int8_t *a, const int8_t *weight, const float *row_scale, const float *column_scale,
                          const float *bias, const float *gate, const int *frozen, const void *residual,
                          const float *out_scale, void *out, void *workspace, int64_t workspace_bytes, int64_t m,
                          int64_t n, int64_t k, int64_t type, int64_t activation, int64_t tile, int64_t blocks,
                          int64_t stream) {
  using namespace pi0::gemm;
  BytesArguments arguments{};
  arguments.a = reinterpret_cast<const uint8_t *>(a);
  arguments.weight = reinterpret_cast<const uint8_t *>(weight);
  arguments.epilogue = {row_scale, 1, column_scale, bias, gate, frozen, residual, out_scale, out,
                        static_cast<pi0_type>(type), static_cast<Activation>(activation)};
  arguments.workspace.tickets = static_cast<unsigned *>(workspace);
  if (row_scale == nullptr) return cudaErrorInvalidValue;
  return launch_bytes<Int8>(arguments, m, n, k, tile, blocks, workspace_bytes, stream);
}

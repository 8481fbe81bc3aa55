// RMSNorm, adaptive RMSNorm and LayerNorm, then an optional Hadamard transform, then int8, E4M3 or 16 bits: one pass.
//
// One block per row, the row in registers: what is read once is written once. Statistics of a LayerNorm are taken in two
// passes over the registers (mean, then squared distances), which loses nothing to cancellation. An offset is added to
// what was read before anything else. Rows of frozen actions take scale and shift of time 0 (`frozen_rows.cuh`).
#include "frozen_rows.cuh"
#include "row.cuh"

namespace pi0 {

constexpr int norm_items = 8;
constexpr int norm_threads = 1024;

template <class In, class Out>
__global__ void __launch_bounds__(norm_threads)
norm_kernel(const In *x, const float *offset, const float *scale, const float *shift, const int *frozen, Out *out,
            float *out_scale, int width, bool centred, int hadamard_block, float epsilon) {
  const int64_t row = blockIdx.x;
  const int of_row = row < frozen_rows(frozen) ? width : 0;
  Row<norm_items> y = load_row<norm_items>(x + row * width, width);
  if (offset) {
    const auto by = load_row<norm_items>(offset, width);
    for (int i = 0; i < norm_items; i++) y.at[i] += by.at[i];
  }
  if (centred) {
    float sum = 0.0f;
    for (int i = 0; i < norm_items; i++) sum += y.at[i];
    const float mean = block_sum(sum) / width;
    if (threadIdx.x * norm_items < width)
      for (int i = 0; i < norm_items; i++) y.at[i] -= mean;
  }
  float squares = 0.0f;
  for (int i = 0; i < norm_items; i++) squares += y.at[i] * y.at[i];
  const float normalizer = rsqrtf(block_sum(squares) / width + epsilon);
  for (int i = 0; i < norm_items; i++) y.at[i] *= normalizer;
  if (scale) {
    const auto by = load_row<norm_items>(scale + of_row, width);
    for (int i = 0; i < norm_items; i++) y.at[i] *= by.at[i];
  }
  if (shift) {
    const auto by = load_row<norm_items>(shift + of_row, width);
    for (int i = 0; i < norm_items; i++) y.at[i] += by.at[i];
  }
  hadamard(y, hadamard_block);
  finish_row(y, out, out_scale, row, width);
}

}  // namespace pi0

PI0_API int pi0_norm(const void *x, const float *offset, const float *scale, const float *shift, const int *frozen,
                     void *out, float *out_scale, int64_t rows, int64_t width, int64_t centred, int64_t hadamard_block,
                     float epsilon, int64_t in_type, int64_t out_type, int64_t stream) {
  using namespace pi0;
  if (rows < 0 || !row_is_possible(width, hadamard_block, norm_items)) return cudaErrorInvalidValue;
  return with_row_types(in_type, out_type, [&](auto *in, auto *result) {
    using In = std::remove_pointer_t<decltype(in)>;
    using Out = std::remove_pointer_t<decltype(result)>;
    const int threads = threads_of_row<norm_items>(width);
    return launch(norm_kernel<In, Out>, dim3(rows), dim3(threads), row_memory_bytes(width, hadamard_block, norm_items),
                  stream, static_cast<const In *>(x), offset, scale, shift, frozen, static_cast<Out *>(out), out_scale,
                  width, centred, hadamard_block, epsilon);
  });
}

// gelu_tanh(gate) · up, then an optional Hadamard transform, then int8, E4M3 or 16 bits: for a down projection whose gate
// and up were written out by their GEMM. One block per row, the row in registers.
#include "row.cuh"

namespace pi0 {

constexpr int geglu_items = 16;
constexpr int geglu_threads = 1024;

template <class In, class Out>
__global__ void __launch_bounds__(geglu_threads)
geglu_kernel(const In *gate, const In *up, Out *out, float *out_scale, int width, int in_stride, int hadamard_block) {
  const int64_t row = blockIdx.x;
  Row<geglu_items> y = load_row<geglu_items>(gate + row * in_stride, width);
  const auto by = load_row<geglu_items>(up + row * in_stride, width);
  for (int i = 0; i < geglu_items; i++) y.at[i] = gelu_tanh(y.at[i]) * by.at[i];
  hadamard(y, hadamard_block);
  finish_row(y, out, out_scale, row, width);
}

}  // namespace pi0

PI0_API int pi0_geglu(const void *gate_up, void *out, float *out_scale, int64_t rows, int64_t width,
                      int64_t hadamard_block, int64_t in_type, int64_t out_type, int64_t stream) {
  using namespace pi0;
  if (rows < 0 || !row_is_possible(width, hadamard_block, geglu_items)) return cudaErrorInvalidValue;
  return with_row_types(in_type, out_type, [&](auto *in, auto *result) {
    using In = std::remove_pointer_t<decltype(in)>;
    using Out = std::remove_pointer_t<decltype(result)>;
    const auto *gate = static_cast<const In *>(gate_up);
    return launch(geglu_kernel<In, Out>, dim3(rows), dim3(threads_of_row<geglu_items>(width)),
                  row_memory_bytes(width, hadamard_block, geglu_items), stream, gate, gate + width,
                  static_cast<Out *>(out), out_scale, width, 2 * width, hadamard_block);
  });
}

// Rows of 16 bits, an optional Hadamard transform, then int8 with one scale per row, or E4M3 by a scale that is given: the
// second pass behind a product whose epilogue did the GeGLU, since the largest value of a row is known only when all of its
// tiles are there.
#include "row.cuh"

namespace pi0 {

constexpr int quantize_items = 16;
constexpr int quantize_threads = 1024;

template <class In, class Out>
__global__ void __launch_bounds__(quantize_threads)
quantize_kernel(const In *in, Out *out, float *out_scale, int width, int hadamard_block) {
  const int64_t row = blockIdx.x;
  Row<quantize_items> x = load_row<quantize_items>(in + row * width, width);
  hadamard(x, hadamard_block);
  finish_row(x, out, out_scale, row, width);
}

}  // namespace pi0

PI0_API int pi0_quantize(const void *in, void *out, float *out_scale, int64_t rows, int64_t width,
                         int64_t hadamard_block, int64_t in_type, int64_t out_type, int64_t stream) {
  using namespace pi0;
  if (rows < 0 || !row_is_possible(width, hadamard_block, quantize_items)) return cudaErrorInvalidValue;
  return with_8_bit_rows(in_type, out_type, [&](auto *from, auto *to) {
    using In = std::remove_pointer_t<decltype(from)>;
    using Out = std::remove_pointer_t<decltype(to)>;
    return launch(quantize_kernel<In, Out>, dim3(rows), dim3(threads_of_row<quantize_items>(width)),
                  row_memory_bytes(width, hadamard_block, quantize_items), stream, static_cast<const In *>(in),
                  static_cast<Out *>(out), out_scale, width, hadamard_block);
  });
}

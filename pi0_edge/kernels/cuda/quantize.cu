// Rows of 16 bits, an optional Hadamard transform, then int8 with one scale per row: the second pass behind a product whose
// epilogue did the GeGLU, since the largest value of a row is known only when all of its tiles are there.
#include "row.cuh"

namespace pi0 {

constexpr int quantize_items = 16;
constexpr int quantize_threads = 1024;

template <class In>
__global__ void __launch_bounds__(quantize_threads)
quantize_kernel(const In *in, int8_t *out, float *out_scale, int width, int hadamard_block) {
  const int64_t row = blockIdx.x;
  Row<quantize_items> x = load_row<quantize_items>(in + row * width, width);
  hadamard(x, hadamard_block);
  finish_row(x, out + row * width, out_scale + row, width);
}

}  // namespace pi0

PI0_API int pi0_quantize(const void *in, int8_t *out, float *out_scale, int64_t rows, int64_t width,
                         int64_t hadamard_block, int64_t in_type, int64_t stream) {
  using namespace pi0;
  if (rows < 0 || !row_is_possible(width, hadamard_block, quantize_items)) return cudaErrorInvalidValue;
  return with_row_types(in_type, PI0_INT8, [&](auto *from, auto *) {
    using In = std::remove_pointer_t<decltype(from)>;
    return launch(quantize_kernel<In>, dim3(rows), dim3(threads_of_row<quantize_items>(width)),
                  row_memory_bytes(width, hadamard_block, quantize_items), stream, static_cast<const In *>(in), out,
                  out_scale, width, hadamard_block);
  });
}

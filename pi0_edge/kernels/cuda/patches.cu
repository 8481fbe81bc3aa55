// Camera frames to the rows of the patch embedding's product: resize, pad with black, scale to [-1, 1], cut into patches.
//
// Bit for bit Pillow's antialiased bilinear resize of 8-bit images: fixed-point weights (22 bits), first along rows,
// rounded to 8 bits, then along columns. Each thread makes one output pixel from all its input pixels; the few that
// neighbours share come from the cache, and no image in between is written.
#include "device.cuh"

namespace pi0 {

constexpr int weight_bits = 22, channels = 3;

// For every output position: its first input position, and the weights of the `taps` from there on.
struct Taps {
  const int *first, *weights;
  int taps, size;
};

__device__ __forceinline__ int to_8_bits(int sum) {
  sum = (sum + (1 << (weight_bits - 1))) >> weight_bits;
  return sum < 0 ? 0 : sum > 255 ? 255 : sum;
}

__global__ void __launch_bounds__(1024)
patches_kernel(const uint8_t *frames, Taps rows, Taps columns, float *out, int height, int width, int side, int patch) {
  const int patches = side / patch, area = patch * patch;
  const int pixel = threadIdx.x, y = blockIdx.x / patches * patch + pixel / patch;
  const int x = blockIdx.x % patches * patch + pixel % patch;
  float *to = out + (static_cast<int64_t>(blockIdx.y) * patches * patches + blockIdx.x) * channels * area;
  if (pixel >= area) return;

  int value[channels] = {};  // black
  const int row = y - (side - rows.size) / 2, column = x - (side - columns.size) / 2;
  if (row >= 0 && row < rows.size && column >= 0 && column < columns.size) {
    int sums[channels] = {};
    const uint8_t *frame = frames + static_cast<int64_t>(blockIdx.y) * height * width * channels;
    for (int i = 0; i < rows.taps; i++) {
      const int row_weight = rows.weights[row * rows.taps + i];
      if (row_weight == 0) continue;  // beyond the last row of the image, too
      const uint8_t *line = frame + static_cast<int64_t>(rows.first[row] + i) * width * channels;
      int along[channels] = {};
      for (int j = 0; j < columns.taps; j++) {
        const int column_weight = columns.weights[column * columns.taps + j];
        if (column_weight == 0) continue;
        const uint8_t *from = line + (columns.first[column] + j) * channels;
        for (int c = 0; c < channels; c++) along[c] += from[c] * column_weight;
      }
      for (int c = 0; c < channels; c++) sums[c] += to_8_bits(along[c]) * row_weight;
    }
    for (int c = 0; c < channels; c++) value[c] = to_8_bits(sums[c]);
  }
  for (int c = 0; c < channels; c++)
    to[c * area + pixel] = static_cast<float>(value[c]) / 255.0f * 2.0f - 1.0f;
}

}  // namespace pi0

PI0_API int pi0_patches(const uint8_t *frames, const int *row_first, const int *row_weights, const int *column_first,
                        const int *column_weights, float *out, int64_t count, int64_t height, int64_t width,
                        int64_t row_taps, int64_t column_taps, int64_t rows, int64_t columns, int64_t side,
                        int64_t patch, int64_t stream) {
  using namespace pi0;
  if (count < 0 || patch < 1 || patch > 32 || side % patch || rows > side || columns > side) return cudaErrorInvalidValue;
  const Taps along_rows{row_first, row_weights, static_cast<int>(row_taps), static_cast<int>(rows)};
  const Taps along_columns{column_first, column_weights, static_cast<int>(column_taps), static_cast<int>(columns)};
  const int64_t patches = side / patch;
  return launch(patches_kernel, dim3(patches * patches, count), dim3(divide_up(patch * patch, warp_size) * warp_size), 0,
                stream, frames, along_rows, along_columns, out, height, width, side, patch);
}

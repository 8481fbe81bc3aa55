// One row of activations spread over one block: what norms and GeGLU share after their own arithmetic.
//
// Thread t holds columns [items · t, items · (t + 1)) in float; threads beyond the width hold zeros and store nothing.
#pragma once

#include "e4m3.cuh"

namespace pi0 {

constexpr float int8_max = 127.0f;
constexpr float smallest_scale = 1e-30f;  // of a row of zeros; `SMALLEST_SCALE` of quant/formats.py

template <int items> struct Row {
  float at[items];
};

struct RowMemory {
  float warps[warp_size];
  float columns[1];  // as many as the block has, where the Hadamard transform crosses warps
};

template <int items> int threads_of_row(int64_t width) { return divide_up(width, items * warp_size) * warp_size; }

inline size_t row_memory_bytes(int64_t width, int64_t hadamard_block, int items) {
  const bool crosses_warps = hadamard_block > items * warp_size;
  return sizeof(float) * (warp_size + (crosses_warps ? divide_up(width, items * warp_size) * items * warp_size : 0));
}

template <int items, class T> __device__ Row<items> load_row(const T *row, int width) {
  Row<items> x = {};
  const int first = threadIdx.x * items;
  if (first >= width) return x;
  const auto loaded = *reinterpret_cast<const Vector<T, items> *>(row + first);
  for (int i = 0; i < items; i++) x.at[i] = to_float(loaded.at[i]);
  return x;
}

// Every thread's value combined over the block, the same in all threads.
template <class Combine> __device__ float over_block(float x, Combine combine) {
  auto &memory = shared_memory<RowMemory>();
  const int warps = blockDim.x / warp_size;
  __syncthreads();  // the memory may still be read for an earlier combination
  if (threadIdx.x % warp_size == 0) memory.warps[threadIdx.x / warp_size] = x;
  __syncthreads();
  x = memory.warps[0];
  for (int warp = 1; warp < warps; warp++) x = combine(x, memory.warps[warp]);
  return x;
}

__device__ inline float block_sum(float x) {
  return over_block(warp_sum(x), [](float a, float b) { return a + b; });
}

__device__ inline float block_max(float x) {
  return over_block(warp_max(x), [](float a, float b) { return max_or_nan(a, b); });
}

// The orthonormal Walsh-Hadamard transform of every `size` neighbouring columns, a power of two; 1 leaves them alone.
template <int items> __device__ void hadamard(Row<items> &x, int size) {
  for (int stride = 1; stride < items; stride *= 2) {
    if (stride >= size) break;
    for (int i = 0; i < items; i++) {
      if (i & stride) continue;
      const float low = x.at[i], high = x.at[i + stride];
      x.at[i] = low + high;
      x.at[i + stride] = low - high;
    }
  }
  for (int lanes = 1; lanes < warp_size && lanes * items < size; lanes *= 2) {
    const float sign = threadIdx.x & lanes ? -1.0f : 1.0f;
    for (int i = 0; i < items; i++) x.at[i] = sign * x.at[i] + __shfl_xor_sync(0xffffffffu, x.at[i], lanes);
  }
  for (int threads = warp_size; threads * items < size; threads *= 2) {
    float *columns = shared_memory<RowMemory>().columns;
    const float sign = threadIdx.x & threads ? -1.0f : 1.0f;
    __syncthreads();
    for (int i = 0; i < items; i++) columns[i * blockDim.x + threadIdx.x] = x.at[i];
    __syncthreads();
    for (int i = 0; i < items; i++) x.at[i] = sign * x.at[i] + columns[i * blockDim.x + (threadIdx.x ^ threads)];
  }
  if (size == 1) return;
  const float norm = rsqrtf(static_cast<float>(size));
  for (int i = 0; i < items; i++) x.at[i] *= norm;
}

template <int items, class T> __device__ void store_row(const Row<items> &x, T *row, int width) {
  const int first = threadIdx.x * items;
  if (first >= width) return;
  Vector<T, items> stored;
  for (int i = 0; i < items; i++) stored.at[i] = from_float<T>(x.at[i]);
  *reinterpret_cast<Vector<T, items> *>(row + first) = stored;
}

// Symmetric INT8 with one scale for the row: amax / 127, rounded to nearest even. A NaN makes the scale NaN.
template <int items> __device__ void quantize_row(const Row<items> &x, int8_t *row, float *scale, int width) {
  float largest = fabsf(x.at[0]);
  for (int i = 1; i < items; i++) largest = max_or_nan(largest, fabsf(x.at[i]));
  const float step = max_or_nan(block_max(largest) * (1.0f / int8_max), smallest_scale);
  if (threadIdx.x == 0) *scale = step;
  const int first = threadIdx.x * items;
  if (first >= width) return;
  Vector<int8_t, items> stored;
  for (int i = 0; i < items; i++) stored.at[i] = static_cast<int8_t>(__float2int_rn(x.at[i] / step));
  *reinterpret_cast<Vector<int8_t, items> *>(row + first) = stored;
}

// E4M3 with one scale for all rows, which calibration has found: larger values saturate.
template <int items> __device__ void divide_row(const Row<items> &x, e4m3 *row, float scale, int width) {
  const int first = threadIdx.x * items;
  if (first >= width) return;
  Vector<e4m3, items> stored;
  for (int i = 0; i < items; i++) stored.at[i] = to_e4m3(x.at[i] / scale);
  *reinterpret_cast<Vector<e4m3, items> *>(row + first) = stored;
}

// The last stage of every kernel here: int8 with a scale of its row, which is written, E4M3 by a scale, which is read, or
// rounded to T.
template <int items> __device__ void finish_row(const Row<items> &x, int8_t *out, float *scale, int64_t row, int width) {
  quantize_row(x, out + row * width, scale + row, width);
}
template <int items> __device__ void finish_row(const Row<items> &x, e4m3 *out, float *scale, int64_t row, int width) {
  divide_row(x, out + row * width, *scale, width);
}
template <int items, class T> __device__ void finish_row(const Row<items> &x, T *out, float *, int64_t row, int width) {
  store_row(x, out + row * width, width);
}

// Width and Hadamard blocks that `items` per thread can do.
inline bool row_is_possible(int64_t width, int64_t hadamard_block, int items) {
  const bool power_of_two = hadamard_block > 0 && (hadamard_block & (hadamard_block - 1)) == 0;
  return width > 0 && width % items == 0 && width <= items * 1024 && power_of_two && width % hadamard_block == 0;
}

// Calls run(In *, Out *) with null pointers of the types; a type of 8 bits comes out of anything.
template <class Run> int with_8_bit_rows(int64_t in, int64_t out, Run run) {
  static constexpr bf16 *b = nullptr;
  static constexpr fp16 *h = nullptr;
  static constexpr float *f = nullptr;
  static constexpr int8_t *q = nullptr;
  static constexpr e4m3 *e = nullptr;
  if (in == PI0_BF16 && out == PI0_INT8) return run(b, q);
  if (in == PI0_FP16 && out == PI0_INT8) return run(h, q);
  if (in == PI0_FP32 && out == PI0_INT8) return run(f, q);
  if (in == PI0_BF16 && out == PI0_E4M3) return run(b, e);
  if (in == PI0_FP16 && out == PI0_E4M3) return run(h, e);
  if (in == PI0_FP32 && out == PI0_E4M3) return run(f, e);
  return cudaErrorInvalidValue;
}

// The same, or a 16-bit type, which comes out of itself and float.
template <class Run> int with_row_types(int64_t in, int64_t out, Run run) {
  static constexpr bf16 *b = nullptr;
  static constexpr fp16 *h = nullptr;
  static constexpr float *f = nullptr;
  if (in == PI0_BF16 && out == PI0_BF16) return run(b, b);
  if (in == PI0_FP16 && out == PI0_FP16) return run(h, h);
  if (in == PI0_FP32 && out == PI0_BF16) return run(f, b);
  if (in == PI0_FP32 && out == PI0_FP16) return run(f, h);
  return with_8_bit_rows(in, out, run);
}

}  // namespace pi0

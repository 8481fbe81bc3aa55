// An RMSNorm between two products that takes no launch: x / sqrt(mean(x²) + ε) · (1 + w), see gemm_norm.py.
//
// The product that makes x stores it in float32, and x · (1 + w) in 16 bits, and for each row the sum of squares of every
// piece of 32 columns. The product behind it reads x · (1 + w), and divides each row of its sums by the root mean square.
// All sums have a fixed order: the same chunk has the same bits whenever it is computed.
#pragma once

#include "gemm_epilogue.cuh"

namespace pi0::gemm {

constexpr int norm_piece = 32;         // `NORM_PIECE` of rows.py: columns that four neighbouring lanes hold of a row
constexpr float norm_epsilon = 1e-6f;  // `NORM_EPSILON`

struct NormEpilogue : Epilogue {
  static constexpr bool by_whole_warps = true;

  const float *squares;     // [m, pieces] of the rows of a, or null: they stand as they are
  int pieces;
  const float *norm_scale;  // [n], 1 + w of the norm that reads the output, or null: none does
  void *scaled;             // [m, n], out · norm_scale
  pi0_type scaled_type;     // bfloat16 or float16
  float *out_squares;       // [m, n / 32]

  NormEpilogue() = default;
  explicit NormEpilogue(const pi0_gemm &gemm)
      : Epilogue(epilogue_of(gemm, 0)), squares(gemm.squares), pieces(static_cast<int>(gemm.k / norm_piece)),
        norm_scale(gemm.norm_scale), scaled(gemm.scaled), scaled_type(static_cast<pi0_type>(gemm.a_type)),
        out_squares(gemm.out_squares) {}

  bool possible(int64_t n, int64_t k) const {
    const bool leaves = norm_scale != nullptr, whole_pieces = n % norm_piece == 0 && k % norm_piece == 0;
    return Epilogue::possible() && (scaled != nullptr) == leaves && (out_squares != nullptr) == leaves &&
           (whole_pieces || (!leaves && squares == nullptr)) && (!leaves || (type == PI0_FP32 && activation == linear));
  }
};

// A sum over the four lanes that hold a row of a fragment, the same in all of them; by whole warps.
__device__ __forceinline__ float row_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

__device__ __forceinline__ float row_scale_of(const NormEpilogue &e, int row) {
  if (!e.squares) return 1.0f;
  float sum = 0.0f;
  for (int piece = threadIdx.x % 4; piece < e.pieces; piece += 4) sum += e.squares[static_cast<int64_t>(row) * e.pieces + piece];
  return rsqrtf(row_sum(sum) / static_cast<float>(e.pieces * norm_piece) + norm_epsilon);
}

template <int count>
__device__ __forceinline__ float leave_scaled(const NormEpilogue &e, int64_t at, int column, const float (&values)[count]) {
  if (!e.norm_scale) return 0.0f;
  const Floats<count> scale(e.norm_scale + column);
  float scaled[count], squares = 0.0f;
#pragma unroll
  for (int c = 0; c < count; c++) {
    scaled[c] = values[c] * scale.at[c];
    squares += values[c] * values[c];
  }
  if (e.scaled_type == PI0_BF16)
    store_rounded<bf16>(static_cast<bf16 *>(e.scaled) + at, scaled);
  else
    store_rounded<fp16>(static_cast<fp16 *>(e.scaled) + at, scaled);
  return squares;
}

__device__ __forceinline__ void leave_squares(const NormEpilogue &e, int row, int rows, int column, int columns, float squares) {
  if (!e.norm_scale) return;
  const float sum = row_sum(squares);
  if (threadIdx.x % 4 == 0 && row < rows)
    e.out_squares[(static_cast<int64_t>(row) * columns + column) / norm_piece] = sum;
}

}  // namespace pi0::gemm

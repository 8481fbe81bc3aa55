// What happens to the sums of a product before they are stored. In this order, each operation rounded to float32:
//
//   value = float(sum) · row scale · column scale + bias
//   value = gelu(value), or gelu(even columns) · odd columns, which halves the columns
//   value = residual + gate · value
//   stored as float32, rounded to bfloat16 or float16, or divided by the output scale and rounded to int8 in ±127;
//   what is not finite becomes −128 there, which no number becomes: a damaged value must not look like a number
//
// The choices are uniform branches at run time: they are taken once per tile, after hundreds of steps.
#pragma once

#include "frozen_rows.cuh"
#include "gemm_arithmetic.cuh"
#include "gemm_layout.cuh"

namespace pi0::gemm {

// `ACTIVATIONS` of gemm_epilogue.py.
enum Activation { linear = 0, gelu = 1, geglu = 2 };

struct Epilogue {
  static constexpr bool by_whole_warps = false;  // lanes without a row of the output take part

  const float *row_scale;     // one per row, or one for all where row_scale_step is 0; null: 1
  int row_scale_step;
  const float *column_scale;  // [n]
  const float *bias;          // [n], or null
  const float *gate;          // [columns of out], or null: 1; a second one behind it where rows may be frozen
  const int *frozen;          // see frozen_rows.cuh
  const void *residual;       // like out, or null
  const float *out_scale;     // one, for int8 only
  void *out;                  // [m, n], or [m, n / 2] with GeGLU
  pi0_type type;              // of out and residual
  Activation activation;
  float unit = 1.0f;          // power of two that the sums are to be multiplied by

  bool possible() const {
    return column_scale != nullptr && out != nullptr && type >= PI0_BF16 && type <= PI0_INT8 &&
           (type == PI0_INT8 ? out_scale != nullptr && residual == nullptr : out_scale == nullptr) &&
           activation >= linear && activation <= geglu;
  }
};

// That of a product; row_scale_step as above.
inline Epilogue epilogue_of(const pi0_gemm &gemm, int row_scale_step) {
  return {gemm.a_scale, row_scale_step, gemm.column_scale, gemm.bias, gemm.gate, gemm.frozen, gemm.residual,
          gemm.out_scale, gemm.out, static_cast<pi0_type>(gemm.type), static_cast<Activation>(gemm.activation)};
}

// `count` neighbours of a row of float parameters, from a column that is a multiple of `count`.
template <int count> struct Floats {
  float at[count];

  __device__ __forceinline__ explicit Floats(const float *from) {
    constexpr int length = count < 4 ? count : 4;
#pragma unroll
    for (int i = 0; i < count; i += length) {
      const auto vector = reinterpret_cast<const Vector<float, length> *>(from)[i / length];
#pragma unroll
      for (int j = 0; j < length; j++) at[i + j] = vector.at[j];
    }
  }
};

template <class T, int count> __device__ __forceinline__ void add_residual(const void *from, float (&values)[count]) {
  constexpr int length = count * sizeof(T) < 16 ? count : 16 / sizeof(T);
#pragma unroll
  for (int i = 0; i < count; i += length) {
    const auto vector = static_cast<const Vector<T, length> *>(from)[i / length];
#pragma unroll
    for (int j = 0; j < length; j++) values[i + j] = plus(values[i + j], to_float(vector.at[j]));
  }
}

template <class T, int count> __device__ __forceinline__ void store_rounded(void *to, const float (&values)[count]) {
  constexpr int length = count * sizeof(T) < 16 ? count : 16 / sizeof(T);
#pragma unroll
  for (int i = 0; i < count; i += length) {
    Vector<T, length> vector;
#pragma unroll
    for (int j = 0; j < length; j++) vector.at[j] = from_float<T>(values[i + j]);
    static_cast<Vector<T, length> *>(to)[i / length] = vector;
  }
}

template <int count> __device__ __forceinline__ void store_int8(void *to, const float (&values)[count], float scale) {
  Vector<int8_t, count> vector;
#pragma unroll
  for (int j = 0; j < count; j++) {
    const float value = divided(values[j], scale);
    const bool finite = fabsf(value) < INFINITY;  // false for NaN
    vector.at[j] = finite ? static_cast<int8_t>(__float2int_rn(fminf(fmaxf(value, -127.0f), 127.0f))) : -128;
  }
  *static_cast<Vector<int8_t, count> *>(to) = vector;
}

template <class T, int count>
__device__ __forceinline__ void add_and_store(const Epilogue &e, int64_t at, float (&values)[count]) {
  if (e.residual) add_residual<T>(static_cast<const T *>(e.residual) + at, values);
  store_rounded<T>(static_cast<T *>(e.out) + at, values);
}

// What an epilogue does for a norm that reads the output, which is nothing here; gemm_norm.cuh has one that does.

__device__ __forceinline__ float row_scale_of(const Epilogue &e, int row) {
  return e.row_scale ? e.row_scale[static_cast<int64_t>(row) * e.row_scale_step] : 1.0f;
}
template <int count>
__device__ __forceinline__ float leave_scaled(const Epilogue &, int64_t, int, const float (&)[count]) { return 0.0f; }
__device__ __forceinline__ void leave_squares(const Epilogue &, int, int, int, int, float) {}

// `count` neighbouring columns of one row of the output, beginning at a multiple of `count`. Returns the sum of their
// squares where a norm reads them.
template <int count, class AnyEpilogue>
__device__ __forceinline__ float store_columns(const AnyEpilogue &e, int row, int column, int columns,
                                               float (&values)[count]) {
  const int64_t at = static_cast<int64_t>(row) * columns + column;
  if (e.gate) {
    const Floats<count> gate(e.gate + (row < frozen_rows(e.frozen) ? columns : 0) + column);
#pragma unroll
    for (int c = 0; c < count; c++) values[c] = times(values[c], gate.at[c]);
  }
  switch (e.type) {
    case PI0_BF16: add_and_store<bf16>(e, at, values); break;
    case PI0_FP16: add_and_store<fp16>(e, at, values); break;
    case PI0_FP32: add_and_store<float>(e, at, values); return leave_scaled(e, at, column, values);
    case PI0_INT8: store_int8(static_cast<int8_t *>(e.out) + at, values, *e.out_scale); break;
    case PI0_E4M3: break;  // `possible` refuses it
  }
  return 0.0f;
}

// One run of sums: `count` neighbouring columns of one row of the product, beginning at a multiple of `count`.
// Returns what store_columns does.
template <int count, class Sum, class AnyEpilogue>
__device__ __forceinline__ float finish_run(const AnyEpilogue &e, int row, int column, int columns, float row_scale,
                                            const Sum (&sums)[count]) {
  float values[count];
  const Floats<count> column_scale(e.column_scale + column);
#pragma unroll
  for (int c = 0; c < count; c++)
    values[c] = times(times(static_cast<float>(sums[c]) * e.unit, row_scale), column_scale.at[c]);
  if (e.bias) {
    const Floats<count> bias(e.bias + column);
#pragma unroll
    for (int c = 0; c < count; c++) values[c] = plus(values[c], bias.at[c]);
  }
  if (e.activation == geglu) {
    float gated[count / 2];
#pragma unroll
    for (int c = 0; c < count / 2; c++) gated[c] = times(gelu_tanh(values[2 * c]), values[2 * c + 1]);
    return store_columns(e, row, column / 2, columns / 2, gated);
  }
  if (e.activation == gelu)
#pragma unroll
    for (int c = 0; c < count; c++) values[c] = gelu_tanh(values[c]);
  return store_columns(e, row, column, columns, values);
}

}  // namespace pi0::gemm

// The conventions of every kernel's C interface.
//
//   PI0_API int pi0_<name>(pointers, int64_t sizes, float parameters, int64_t stream);
//
// Every function is declared here, and every .cu includes this header, so that a definition with other arguments does not
// compile. `FUNCTIONS` of library.py says the same to ctypes; a test compares the two.
//
// Pointers are device pointers, inputs first, then `const`-less outputs; rows are contiguous. A function only enqueues
// its kernels on `stream` (a cudaStream_t as an integer, 0 for the default stream) and returns the cudaError_t of the
// launch as an int, 0 for success. It never throws, never allocates, never synchronizes, so that it may be captured into
// a CUDA graph; sizes that the kernel cannot do answer cudaErrorInvalidValue before anything is launched.
#pragma once

#include <stdint.h>

#define PI0_API extern "C" __attribute__((visibility("default")))

// Grows when a function changes its arguments or its meaning; `library.py` refuses another number.
#define PI0_LIBRARY_VERSION 6

// What a pointer of changing type points to, passed as an int64_t.
enum pi0_type { PI0_BF16 = 0, PI0_FP16 = 1, PI0_FP32 = 2, PI0_INT8 = 3, PI0_E4M3 = 4 };

PI0_API int pi0_library_version(void);
PI0_API const char *pi0_error_string(int error);

// A GPU that can run this library is there: 0; otherwise the error that every other function would answer. Also how many
// bytes of shared memory a block of the largest kernel needs at the sizes of π0, and how many this GPU gives to one.
PI0_API int pi0_device_ready(int64_t *shared_needed, int64_t *shared_found);

// A matrix product: out = epilogue(a · weightᵀ), see gemm_epilogue.cuh. `GemmArguments` of library.py has the same fields.
struct pi0_gemm {
  const void *a;              // [m, k]
  const void *weight;         // [n, k], or as gemm_packing.py packs it for pi0_gemm_weight_only
  const float *a_scale;       // [m] for INT8, [1] for FP8, null for pi0_gemm_weight_only
  const float *column_scale;  // [n]
  const float *bias;          // [n], or null
  const float *gate;          // [columns of out], or null; a second one behind it where rows may be frozen
  const int *frozen;          // [1], or null: see frozen_rows.cuh
  const void *residual;       // like out, or null
  const float *out_scale;     // [1], for an INT8 output only
  const float *squares;       // [m, k / 32], or null: see gemm_norm.cuh; this and the next four for pi0_gemm_weight_only
  const float *norm_scale;    // [n], or null: of the norm that reads the output
  void *scaled;               // out · norm_scale in the type of a; null without norm_scale
  float *out_squares;         // [m, n / 32]; null without norm_scale
  const void *next;           // what the L2 cache is asked for meanwhile, or null
  void *out;                  // [m, n], or [m, n / 2] with GeGLU
  void *workspace;            // zero before the first launch on a stream
  int64_t workspace_bytes;
  int64_t next_bytes;
  int64_t m, n, k;
  int64_t a_type;             // of a, for pi0_gemm_weight_only: PI0_BF16 or PI0_FP16
  int64_t type;               // of out and residual
  int64_t fp8_weights;        // for pi0_gemm_weight_only: E4M3 where it is not 0, else INT8
  int64_t activation;         // `ACTIVATIONS` of gemm_epilogue.py
  int64_t tile;               // `TILES` of gemm_plan.py; not for pi0_gemm_weight_only
  int64_t blocks;
};

// sizeof(struct pi0_gemm), which library.py compares with its own.
PI0_API int64_t pi0_gemm_size(void);

PI0_API int pi0_gemm_int8(const struct pi0_gemm *gemm, int64_t stream);
PI0_API int pi0_gemm_fp8(const struct pi0_gemm *gemm, int64_t stream);
PI0_API int pi0_gemm_weight_only(const struct pi0_gemm *gemm, int64_t stream);

PI0_API int pi0_attention(const void *q, const void *k, const void *v, const int *seen, void *out, int64_t batch,
                          int64_t tokens, int64_t keys, int64_t heads, int64_t kv_heads, int64_t head_dim,
                          int64_t q_stride, int64_t kv_stride, int64_t out_stride, int64_t type, int64_t stream);
PI0_API int pi0_rope_attention(const void *qkv, const float *table, void *keys, void *values, const int *seen,
                               const void *next, const void *after_next, void *out, int64_t tokens, int64_t kept,
                               int64_t cached, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t next_bytes,
                               int64_t after_next_bytes, int64_t type, int64_t stream);
PI0_API int pi0_embed_actions(const float *x, const float *weight, const float *bias, const int *frozen,
                              const void *out_weight, const float *out_bias, void *out, int64_t tokens, int64_t width,
                              int64_t action_dim, int64_t type, int64_t out_type, int64_t stream);
PI0_API int pi0_euler_update(const void *hidden, const int *frozen, const float *scale, const float *shift,
                             const float *weight, const float *bias, float *x, int64_t tokens, int64_t width,
                             int64_t action_dim, float dt, float epsilon, int64_t type, int64_t stream);
// out_scale of geglu, norm and quantize: [rows], written, of an INT8 output; [1], read, of E4M3; null of 16 bits.
PI0_API int pi0_geglu(const void *gate_up, void *out, float *out_scale, int64_t rows, int64_t width,
                      int64_t hadamard_block, int64_t in_type, int64_t out_type, int64_t stream);
PI0_API int pi0_norm(const void *x, const float *offset, const float *scale, const float *shift, const int *frozen,
                     void *out, float *out_scale, int64_t rows, int64_t width, int64_t centred, int64_t hadamard_block,
                     float epsilon, int64_t in_type, int64_t out_type, int64_t stream);
PI0_API int pi0_patches(const uint8_t *frames, const int *row_first, const int *row_weights, const int *column_first,
                        const int *column_weights, float *out, int64_t count, int64_t height, int64_t width,
                        int64_t row_taps, int64_t column_taps, int64_t rows, int64_t columns, int64_t side,
                        int64_t patch, int64_t stream);
PI0_API int pi0_quantize(const void *in, void *out, float *out_scale, int64_t rows, int64_t width,
                         int64_t hadamard_block, int64_t in_type, int64_t out_type, int64_t stream);
PI0_API int pi0_rope(const void *qkv, const float *table, void *q, void *keys, void *values, int64_t tokens,
                     int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t first_row, int64_t type,
                     int64_t stream);

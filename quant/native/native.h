/* What the C sources of this folder share. `docs/cpu-engine.md` says how they fit together; Python calls them through
   `pi0_edge.quant.native`.

   Rows are tokens. Weights lie in panels of 32 output channels: [panel][group of 4 along K][channel][4]. Tokens are
   unsigned bytes, the INT8 value plus 128, because x86 multiplies unsigned with signed bytes; the sum of 128 times the
   weights of a channel is its `shift`, which is subtracted, so that every sum is exact. */

#ifndef PI0_NATIVE_H
#define PI0_NATIVE_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define X86 1
#define EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define X86 0
#define EACH_PROCESSOR
#endif
#define INLINED static inline __attribute__((always_inline))

enum {
    PANEL = 32, /* columns that lie together in packed weights, keys and values */
    TILE = 64,  /* columns that one tile computes: two panels */
    ROWS = 6,   /* rows of a tile: 6 x 4 registers of 16 sums, and 8 registers are left */
    GROUP = 4,  /* bytes along K that one instruction multiplies and adds */
    LINE = 64,  /* bytes of a cache line */
    LARGE = 1 << 18, /* numbers of a result that are not kept in the caches for the next pass */
    MAXIMA = 16,     /* partial maxima of a row */
    LANES = 32, /* partial sums of a row: the same on every processor, so that sums are */
};

#define EXPONENT_MASK 0x7f800000u
#define MAGNITUDE_MASK 0x7fffffff
#define SMALLEST_SCALE 1e-30f
#define BYTE_SHIFT 128

/* A quantized linear: `panels` of weights, per channel a float `scale`, the int32 `shift` (128 times the sum of the
   weights) and a float `bias` or NULL. All are padded to whole panels. */
struct pi0_linear {
    const int8_t *panels;
    const float *scale;
    const int32_t *shift;
    const float *bias;
    int64_t depth, width;
};

/* The instructions in use: see tiles.c. */
enum { PORTABLE, AVX2, AVX_VNNI, AVX512_VNNI, NEON_DOT };
int pi0_level(void);

/* sums [rows][TILE] = tokens [rows, groups * 4] times two panels; `second` may be NULL. */
void pi0_dot_tile(const uint8_t *tokens, int64_t stride, int rows, const int8_t *first, const int8_t *second,
                  int64_t groups, int32_t (*sums)[TILE]);

/* memory.c */
void pi0_ask_for_large_pages(void *memory, int64_t bytes);
void *pi0_allocate(int64_t bytes);
void *pi0_borrow(int64_t bytes); /* memory to be given back, or NULL */
void pi0_give_back(void *memory);

/* rows.c */
int pi0_quantize_row(const float *x, int64_t columns, uint8_t *bytes, float *scale);
int pi0_quantize_hidden(const uint32_t *pairs, int64_t columns, uint32_t largest, uint8_t *bytes, float *scale);
void pi0_rms_norm_row(const float *x, int64_t columns, const float *weight, const float *scale, const float *shift,
                      float *out);
void pi0_layer_norm_row(const float *x, int64_t columns, const float *weight, const float *bias, float *out);
uint32_t pi0_largest_bits(const float *x, int64_t columns);

/* product.c: what becomes of the products. */
enum pi0_result { STORE, ADD, GELU, GEGLU };

struct pi0_product {
    enum pi0_result result;
    const struct pi0_linear *linears[3]; /* up to three with the same tokens, their results side by side */
    int count;
    const uint8_t *tokens;
    const float *token_scale;
    int64_t rows;
    float *out;       /* [rows, out_stride]; not of GELU and GeGLU */
    uint32_t *hidden; /* of those: [rows, out_stride / 2], pairs of bfloat16; the stride is a multiple of PANEL */
    int64_t out_stride;
    int large;         /* results leave the caches at once: they are more than those hold */
    /* [threads][rows]: of GELU and GeGLU, the largest magnitudes among the results of each thread, as bits. */
    uint32_t (*largest)[MAXIMA];
    const float *gate; /* of ADD: out += gate * product; NULL is 1 */
    int64_t gate_tokens, gate_batch_stride, gate_token_stride; /* row r reads gate[r / tokens * batch + r % tokens * token] */
};
void pi0_multiply(const struct pi0_product *product); /* all threads of a team call it; it ends with a barrier */

INLINED int is_large(int64_t rows, int64_t width) { return rows * width > LARGE; }

INLINED int64_t row_bytes(int64_t depth) { return (depth + GROUP - 1) / GROUP * GROUP; }

INLINED uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

INLINED float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Hidden values of an MLP are bfloat16, because 8 bits of them are used: rounded, ties away from 0. Column c of a
   panel and column c + 16 are a pair, the second one in the upper half. */
enum { PAIRS = PANEL / 2 };

INLINED uint32_t pair_of(float low, float high) {
    return (bits_of(low) + 0x8000u) >> 16 | ((bits_of(high) + 0x8000u) & 0xffff0000u);
}

/* e^x for x in [-87, 87], relative error below 2e-7: 2^n times a polynomial for the rest (Cephes' expf). */
INLINED float exponential(float x) {
    const float n = rintf(x * 1.44269504f);
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * float_of((uint32_t)((int32_t)n + 127) << 23);
}

/* The tanh-GELU; 0.5 (1 + tanh z) is the logistic function of 2z. */
INLINED float gelu(float x) {
    float z = -1.5957691216f * (x + 0.044715f * x * x * x);
    z = z < -87.0f ? -87.0f : z;
    const float kept = z > 87.0f ? 0.0f * x : x; /* the logistic function is 0 there; 0 times -infinity is NaN, as in torch */
    z = z > 87.0f ? 87.0f : z;
    return kept / (1.0f + exponential(z));
}

#endif

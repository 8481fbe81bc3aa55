/* What stands between two INT8 linears, in one pass over each row while it is in the cache: token scale and bias, GELU
   (times `up` in a GeGLU), and quantization per token. `fused_activation.py` calls it and says what it computes.

   Plain C that the compiler vectorizes; rows are divided among the OpenMP threads that torch has started already. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define EACH_PROCESSOR
#endif

#define EXPONENT_MASK 0x7f800000u
#define SMALLEST_SCALE 1e-30f

static inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* e^x for x in [-87, 87], relative error below 2e-7: 2^n times a polynomial for the rest (Cephes' expf). */
static inline float exponential(float x) {
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
static inline float gelu(float x) {
    float z = -1.5957691216f * (x + 0.044715f * x * x * x);
    z = z < -87.0f ? -87.0f : z;
    const float kept = z > 87.0f ? 0.0f : x; /* the logistic function is 0 there, in float and for what follows */
    z = z > 87.0f ? 87.0f : z;
    return kept / (1.0f + exponential(z));
}

/* Largest magnitude of a row as bits: NaN and infinity compare above everything finite. */
EACH_PROCESSOR
static uint32_t largest_bits(const float *x, int64_t columns) {
    uint32_t largest = 0;
    for (int64_t k = 0; k < columns; k++) {
        const uint32_t magnitude = bits_of(x[k]) & 0x7fffffffu;
        largest = magnitude > largest ? magnitude : largest;
    }
    return largest;
}

EACH_PROCESSOR
static void round_row(const float *x, int64_t columns, float scale, int8_t *values) {
    for (int64_t k = 0; k < columns; k++)
        values[k] = (int8_t)(int32_t)rintf(x[k] / scale);
}

EACH_PROCESSOR
static void gelu_row(float *x, int64_t columns, float scale, const float *bias) {
    if (bias)
        for (int64_t k = 0; k < columns; k++)
            x[k] = gelu(x[k] * scale + bias[k]);
    else
        for (int64_t k = 0; k < columns; k++)
            x[k] = gelu(x[k] * scale);
}

EACH_PROCESSOR
static void multiply_row(float *restrict x, const float *restrict factor, int64_t columns, float scale) {
    for (int64_t k = 0; k < columns; k++)
        x[k] *= factor[k] * scale;
}

static int quantize_row(const float *x, int64_t columns, int8_t *values, float *scale) {
    const uint32_t largest = largest_bits(x, columns);
    if (largest >= EXPONENT_MASK)
        return 0;
    const float amax = float_of(largest) * (float)(1.0 / 127.0);
    *scale = amax > SMALLEST_SCALE ? amax : SMALLEST_SCALE;
    round_row(x, columns, *scale, values);
    return 1;
}

/* x [rows, columns] -> values int8 and scales [rows]. Returns 0 where a value is NaN or infinite, else 1. */
int pi0_quantize_rows(const float *x, int64_t rows, int64_t columns, int8_t *values, float *scales) {
    int finite = 1;
#pragma omp parallel for reduction(&& : finite) if (rows * columns > 65536)
    for (int64_t row = 0; row < rows; row++)
        finite = quantize_row(x + row * columns, columns, values + row * columns, scales + row) && finite;
    return finite;
}

/* x [rows, columns] becomes gelu(x * token_scale + bias), times up * token_scale where there is an `up` [rows, columns];
   quantized into values and scales where `values` is given. Returns 0 where a value is NaN or infinite, else 1. */
int pi0_gelu_rows(float *x, const float *up, const float *token_scale, const float *bias, int64_t rows, int64_t columns,
                  int8_t *values, float *scales) {
    int finite = 1;
#pragma omp parallel for reduction(&& : finite) if (rows * columns > 65536)
    for (int64_t row = 0; row < rows; row++) {
        float *own = x + row * columns;
        gelu_row(own, columns, token_scale[row], bias);
        if (up)
            multiply_row(own, up + row * columns, columns, token_scale[row]);
        if (values)
            finite = quantize_row(own, columns, values + row * columns, scales + row) && finite;
    }
    return finite;
}

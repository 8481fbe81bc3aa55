/* Passes over single rows, each while the row is in the cache: quantization per token, GELU and GeGLU between two
   products, and the norms before them.

   Plain C that the compiler vectorizes; rows are divided among the OpenMP threads that torch has started already. */

#include "native.h"

/* Largest magnitude of a row as bits: NaN and infinity compare above everything finite. */
EACH_PROCESSOR
uint32_t pi0_largest_bits(const float *x, int64_t columns) {
    uint32_t largest = 0;
    for (int64_t k = 0; k < columns; k++) {
        const uint32_t magnitude = bits_of(x[k]) & MAGNITUDE_MASK;
        largest = magnitude > largest ? magnitude : largest;
    }
    return largest;
}

EACH_PROCESSOR
static void round_row(const float *restrict x, int64_t columns, float scale, int32_t offset, uint8_t *restrict bytes) {
    for (int64_t k = 0; k < columns; k++)
        bytes[k] = (uint8_t)((int32_t)rintf(x[k] / scale) + offset);
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

/* `largest` as `pi0_largest_bits` of the row. */
static int quantize_row(const float *x, int64_t columns, uint32_t largest, int32_t offset, uint8_t *bytes, float *scale) {
    if (largest >= EXPONENT_MASK)
        return 0;
    const float amax = float_of(largest) * (float)(1.0 / 127.0);
    *scale = amax > SMALLEST_SCALE ? amax : SMALLEST_SCALE;
    round_row(x, columns, *scale, offset, bytes);
    return 1;
}

/* One row x [columns] -> shifted bytes and their scale. Returns 0 where a value is NaN or infinite, else 1. */
int pi0_quantize_row(const float *x, int64_t columns, uint8_t *bytes, float *scale) {
    for (int64_t k = columns; k < row_bytes(columns); k++)
        bytes[k] = BYTE_SHIFT;
    return quantize_row(x, columns, pi0_largest_bits(x, columns), BYTE_SHIFT, bytes, scale);
}

EACH_PROCESSOR
static void round_panels(const uint32_t *restrict pairs, int64_t panels, float inverse, uint8_t *restrict bytes) {
    for (int64_t panel = 0; panel < panels; panel++)
        for (int c = 0; c < PAIRS; c++) {
            const uint32_t pair = pairs[panel * PAIRS + c];
            bytes[panel * PANEL + c] = (uint8_t)((int32_t)rintf(float_of(pair << 16) * inverse) + BYTE_SHIFT);
            bytes[panel * PANEL + PAIRS + c] =
                (uint8_t)((int32_t)rintf(float_of(pair & 0xffff0000u) * inverse) + BYTE_SHIFT);
        }
}

/* The same for hidden values, whose largest magnitude is known from before they were rounded. */
int pi0_quantize_hidden(const uint32_t *pairs, int64_t columns, uint32_t largest, uint8_t *bytes, float *scale) {
    const int64_t whole = columns / PANEL, rest = columns % PANEL;
    if (largest + 0x8000u >= EXPONENT_MASK) /* rounding may have made it infinite */
        return 0;
    const float amax = float_of(largest) * (float)(1.0 / 127.0);
    *scale = amax > SMALLEST_SCALE ? amax : SMALLEST_SCALE;
    round_panels(pairs, whole, 1.0f / *scale, bytes);
    if (rest) {
        uint8_t last[PANEL];
        round_panels(pairs + whole * PAIRS, 1, 1.0f / *scale, last);
        memset(last + rest, BYTE_SHIFT, (size_t)(PANEL - rest));
        memcpy(bytes + whole * PANEL, last, (size_t)row_bytes(rest));
    }
    return 1;
}

/* Sum over a row of (x - centre)^2, or of x where `squared` is 0. */
INLINED float row_sum(const float *x, int64_t columns, float centre, int squared) {
    float part[LANES] = {0};
    int64_t k = 0;
    for (; k + LANES <= columns; k += LANES)
        for (int lane = 0; lane < LANES; lane++) {
            const float value = x[k + lane] - centre;
            part[lane] += squared ? value * value : value;
        }
    for (int lane = 0; k < columns; k++, lane++) {
        const float value = x[k] - centre;
        part[lane] += squared ? value * value : value;
    }
    for (int width = LANES / 2; width; width /= 2)
        for (int lane = 0; lane < width; lane++)
            part[lane] += part[lane + width];
    return part[0];
}

/* x / sqrt(mean(x^2) + 1e-6), times `weight` or, where that is NULL, times (1 + scale) plus shift. */
EACH_PROCESSOR
void pi0_rms_norm_row(const float *x, int64_t columns, const float *weight, const float *scale, const float *shift,
                      float *out) {
    const float inverse = 1.0f / sqrtf(row_sum(x, columns, 0.0f, 1) / (float)columns + 1e-6f);
    if (weight)
        for (int64_t k = 0; k < columns; k++)
            out[k] = x[k] * inverse * weight[k];
    else
        for (int64_t k = 0; k < columns; k++)
            out[k] = x[k] * inverse * (1.0f + scale[k]) + shift[k];
}

/* (x - mean) / sqrt(variance + 1e-6) * weight + bias. */
EACH_PROCESSOR
void pi0_layer_norm_row(const float *x, int64_t columns, const float *weight, const float *bias, float *out) {
    const float mean = row_sum(x, columns, 0.0f, 0) / (float)columns;
    const float inverse = 1.0f / sqrtf(row_sum(x, columns, mean, 1) / (float)columns + 1e-6f);
    for (int64_t k = 0; k < columns; k++)
        out[k] = (x[k] - mean) * inverse * weight[k] + bias[k];
}

static int quantize_int8(const float *x, int64_t columns, int8_t *values, float *scale) {
    return quantize_row(x, columns, pi0_largest_bits(x, columns), 0, (uint8_t *)values, scale);
}

/* x [rows, columns] -> values int8 and scales [rows]. Returns 0 where a value is NaN or infinite, else 1. */
int pi0_quantize_rows(const float *x, int64_t rows, int64_t columns, int8_t *values, float *scales) {
    int finite = 1;
#pragma omp parallel for reduction(&& : finite) if (rows * columns > 65536)
    for (int64_t row = 0; row < rows; row++)
        finite = quantize_int8(x + row * columns, columns, values + row * columns, scales + row) && finite;
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
            finite = quantize_int8(own, columns, values + row * columns, scales + row) && finite;
    }
    return finite;
}

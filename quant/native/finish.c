/* What becomes of a block of sums while it is in the cache: scales and bias, then GELU or GeGLU, or the sum with the
   residual. The order of the float operations is that of `QuantizedLinear`: channel scale, token scale, bias.

   A block is finished in one call for all of its rows, so that the processor works on several at once. */

#include "product.h"

#if X86
#include <immintrin.h>
#endif

INLINED float scaled(int32_t sum, int32_t shift, float scale, float token_scale) {
    return (float)(sum - shift) * scale * token_scale;
}

/* 32 sums of one row become results of the linear. */
INLINED void scale_sums(const int32_t *restrict sums, const struct place *place, float token_scale,
                        float *restrict values) {
    const int32_t *restrict shift = place->linear->shift + place->channel;
    const float *restrict scale = place->linear->scale + place->channel;
    if (place->linear->bias) {
        const float *restrict bias = place->linear->bias + place->channel;
        for (int c = 0; c < PANEL; c++)
            values[c] = scaled(sums[c], shift[c], scale[c], token_scale) + bias[c];
    } else {
        for (int c = 0; c < PANEL; c++)
            values[c] = scaled(sums[c], shift[c], scale[c], token_scale);
    }
}

EACH_PROCESSOR
static void scale_block(const struct pi0_product *p, int64_t first, int rows, const struct place *place, int count,
                        int32_t (*restrict sums)[TILE], float (*restrict values)[TILE]) {
    for (int row = 0; row < rows; row++)
        for (int i = 0; i < count; i++)
            scale_sums(sums[row] + i * PANEL, place + i, p->token_scale[first + row], values[row] + i * PANEL);
}

/* The results of a GeGLU take the place of its gate. */
EACH_PROCESSOR
static void activate_block(enum pi0_result result, int rows, int count, float (*restrict values)[TILE],
                           uint32_t (*restrict largest)[MAXIMA]) {
    const int columns = result == GEGLU ? PANEL : count * PANEL;
    for (int row = 0; row < rows; row++) {
        if (result == GEGLU)
            for (int c = 0; c < PANEL; c++)
                values[row][c] = gelu(values[row][c]) * values[row][PANEL + c];
        else
            for (int c = 0; c < columns; c++)
                values[row][c] = gelu(values[row][c]);
        for (int from = 0; from < columns; from += MAXIMA)
            for (int c = 0; c < MAXIMA; c++) {
                const uint32_t magnitude = bits_of(values[row][from + c]) & MAGNITUDE_MASK;
                largest[row][c] = magnitude > largest[row][c] ? magnitude : largest[row][c];
            }
    }
}

EACH_PROCESSOR
static void add_row(float *restrict out, const float *restrict values, const float *restrict gate, int width) {
    if (gate)
        for (int c = 0; c < width; c++)
            out[c] += gate[c] * values[c];
    else
        for (int c = 0; c < width; c++)
            out[c] += values[c];
}

/* Copies, past the caches where the processor can and `out` is aligned. */
static void stream(void *out, const void *values, int64_t bytes) {
#if X86
    if (bytes % 16 == 0 && (uintptr_t)out % 16 == 0) {
        for (int64_t i = 0; i < bytes; i += 16)
            _mm_stream_si128((void *)((char *)out + i), _mm_loadu_si128((const void *)((const char *)values + i)));
        return;
    }
#endif
    memcpy(out, values, (size_t)bytes);
}

/* Brings results to their place. */
static void place_block(const struct pi0_product *p, int64_t first, int rows, const struct place *place, int results,
                        float (*values)[TILE]) {
    for (int r = 0; r < rows; r++) {
        const int64_t row = first + r;
        const float *gate = p->gate ? pi0_gate_of(p, row) : NULL;
        for (int i = 0; i < results; i++) {
            const float *own = values[r] + i * PANEL;
            float *out = p->out + row * p->out_stride + place[i].column;
            const int64_t bytes = place[i].width * (int64_t)sizeof *out;
            if (p->result == ADD)
                add_row(out, own, gate ? gate + place[i].column : NULL, place[i].width);
            else if (p->large)
                stream(out, own, bytes);
            else
                memcpy(out, own, (size_t)bytes);
        }
    }
}

/* The same for hidden values, whole panels of them. */
static void place_hidden(const struct pi0_product *p, int64_t first, int rows, const struct place *place, int results,
                         float (*values)[TILE]) {
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < results; i++) {
            uint32_t pairs[PAIRS], *out = p->hidden + ((first + r) * p->out_stride + place[i].column) / 2;
            for (int c = 0; c < PAIRS; c++)
                pairs[c] = pair_of(values[r][i * PANEL + c], values[r][i * PANEL + PAIRS + c]);
            if (p->large)
                stream(out, pairs, sizeof pairs);
            else
                memcpy(out, pairs, sizeof pairs);
        }
}

void pi0_finish_block(const struct pi0_product *p, int64_t first, int rows, const struct place *place, int count,
                      int32_t (*sums)[TILE], uint32_t (*largest)[MAXIMA]) {
    float values[ROWS][TILE] __attribute__((aligned(LINE)));
    scale_block(p, first, rows, place, count, sums, values);
    if (p->result == GELU || p->result == GEGLU) {
        activate_block(p->result, rows, count, values, largest);
        place_hidden(p, first, rows, place, p->result == GEGLU ? 1 : count, values);
    } else {
        place_block(p, first, rows, place, count, values);
    }
}

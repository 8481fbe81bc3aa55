/* What becomes of a block of sums while it is in the cache: scales and bias, then GELU or GeGLU, or the sum with the
   residual. The order of the float operations is that of `QuantizedLinear`: channel scale, token scale, bias.

   A block is finished in one call for all of its rows, so that the processor works on several at once. GELU and GeGLU have
   a form in AVX-512; their results differ from those of plain C in the last bits. */

#include "avx512.h"
#include "product.h"

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
        for (int from = 0; largest && from < columns; from += MAXIMA)
            for (int c = 0; c < MAXIMA; c++) {
                const uint32_t magnitude = bits_of(values[row][from + c]) & MAGNITUDE_MASK;
                largest[row][c] = magnitude > largest[row][c] ? magnitude : largest[row][c];
            }
    }
}

#if X86
AVX512 INLINED __m512 scaled_512(const int32_t *sums, const struct place *place, int c, __m512 token_scale) {
    const int64_t channel = place->channel + c;
    const __m512i exact = _mm512_sub_epi32(_mm512_loadu_si512(sums + c), _mm512_loadu_si512(place->linear->shift + channel));
    const __m512 value = _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(exact), _mm512_loadu_ps(place->linear->scale + channel)),
                                       token_scale);
    return place->linear->bias ? _mm512_add_ps(value, _mm512_loadu_ps(place->linear->bias + channel)) : value;
}

/* `scale_block` and `activate_block` in one. */
AVX512 static void activate_512(const struct pi0_product *p, int64_t first, int rows, const struct place *place, int count,
                                int32_t (*sums)[TILE], float (*values)[TILE], uint32_t (*largest)[MAXIMA]) {
    const int columns = p->result == GEGLU ? PANEL : count * PANEL;
    for (int row = 0; row < rows; row++) {
        const __m512 token_scale = _mm512_set1_ps(p->token_scale[first + row]);
        __m512i most = largest ? _mm512_loadu_si512(largest[row]) : _mm512_setzero_si512();
        for (int c = 0; c < columns; c += 16) {
            __m512 value = gelu_512(scaled_512(sums[row] + c / PANEL * PANEL, place + c / PANEL, c % PANEL, token_scale));
            if (p->result == GEGLU)
                value = _mm512_mul_ps(value, scaled_512(sums[row] + PANEL, place + 1, c, token_scale));
            _mm512_storeu_ps(values[row] + c, value);
            most = _mm512_max_epu32(most, _mm512_and_si512(_mm512_castps_si512(value), _mm512_set1_epi32(MAGNITUDE_MASK)));
        }
        if (largest)
            _mm512_storeu_si512(largest[row], most);
    }
}
#endif

EACH_PROCESSOR
static void add_row(float *restrict out, const float *restrict values, const float *restrict gate, int width) {
    if (gate)
        for (int c = 0; c < width; c++)
            out[c] += gate[c] * values[c];
    else
        for (int c = 0; c < width; c++)
            out[c] += values[c];
}

/* Brings results to their place. */
static void place_block(const struct pi0_product *p, int64_t first, int rows, const struct place *place, int results,
                        float (*values)[TILE]) {
    for (int r = 0; r < rows; r++) {
        const int64_t row = first + r;
        const float *gate = p->gate ? p->gate + row / p->gate_tokens * p->gate_batch_stride +
                                          row % p->gate_tokens * p->gate_token_stride
                                    : NULL;
        for (int i = 0; i < results; i++) {
            const float *own = values[r] + i * PANEL;
            float *out = p->out + row * p->out_stride + place[i].column;
            if (p->result == ADD)
                add_row(out, own, gate ? gate + place[i].column : NULL, place[i].width);
            else if (p->large)
                pi0_stream(out, own, place[i].width);
            else
                memcpy(out, own, (size_t)place[i].width * sizeof *out);
        }
    }
}

void pi0_finish_block(const struct pi0_product *p, int64_t first, int rows, const struct place *place, int count,
                      int32_t (*sums)[TILE], uint32_t (*largest)[MAXIMA]) {
    float values[ROWS][TILE] __attribute__((aligned(LINE)));
    const int activated = p->result == GELU || p->result == GEGLU;
#if X86
    if (activated && pi0_level() >= AVX512_VNNI) {
        activate_512(p, first, rows, place, count, sums, values, largest);
    } else
#endif
    {
        scale_block(p, first, rows, place, count, sums, values);
        if (activated)
            activate_block(p->result, rows, count, values, largest);
    }
    place_block(p, first, rows, place, p->result == GEGLU ? 1 : count, values);
}

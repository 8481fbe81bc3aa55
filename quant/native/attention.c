/* softmax(q k / sqrt(head_dim)) v for blocks of 24 queries of one head, over all keys at once.

   Where the processor multiplies bfloat16 (AVX512_BF16), queries, keys, values and probabilities are rounded to it, and
   sums are float32; elsewhere everything is float32. There is no mask: every key in the cache is valid, and the caller
   stores no others. The keys of one panel (32 KB for heads of 256) stay in the first cache for all queries of a block. */

#include "attention.h"
#include "avx512.h"

static int is_bf16(void) { return pi0_level() == AVX512_BF16; }

/* How many numbers one group of the tiles has: pairs of bfloat16, single floats. */
static int64_t pair(void) { return is_bf16() ? 2 : 1; }

static int64_t rounded_up(int64_t x, int64_t unit) { return (x + unit - 1) / unit * unit; }

static void put(void *numbers, int64_t index, float value, int bf16) {
    if (bf16)
        ((uint16_t *)numbers)[index] = bf16_of(value);
    else
        ((float *)numbers)[index] = value;
}

int64_t pi0_cache_bytes(int64_t capacity, int64_t head_dim) {
    return rounded_up(capacity, TILE) * rounded_up(head_dim, TILE) * (is_bf16() ? 2 : 4);
}

int64_t pi0_query_numbers(int64_t head_dim) { return rounded_up(head_dim, 2); }

/* Pairs of one key go to the same key of each group. */
EACH_PROCESSOR
static void store_key_pairs(uint16_t *restrict out, const float *restrict key, int64_t head_dim) {
    enum { PART = 64 };
    for (int64_t from = 0; from < head_dim; from += PART) {
        const int64_t count = head_dim - from < PART ? head_dim - from : PART;
        uint16_t rounded[PART] = {0};
        for (int64_t d = 0; d < count; d++)
            rounded[d] = bf16_of(key[from + d]);
        for (int64_t d = 0; d < count; d += 2)
            memcpy(out + (from + d) * PANEL, rounded + d, 2 * sizeof *out);
    }
}

void pi0_store_key(const struct pi0_cache *cache, int64_t place, const float *key) {
    const int64_t unit = pair(), groups = rounded_up(cache->head_dim, unit) / unit;
    const int64_t start = (place / PANEL * groups * PANEL + place % PANEL) * unit;
    if (is_bf16()) {
        store_key_pairs((uint16_t *)cache->keys + start, key, cache->head_dim);
    } else {
        float *own = (float *)cache->keys + start;
        for (int64_t d = 0; d < cache->head_dim; d++)
            own[d * PANEL] = key[d];
    }
}

EACH_PROCESSOR
static void store_pairs(uint16_t *out, const float *x, int64_t count) {
    for (int64_t d = 0; d < count; d++)
        out[2 * d] = bf16_of(x[d]);
}

void pi0_store_value(const struct pi0_cache *cache, int64_t place, const float *value) {
    const int64_t unit = pair(), groups = rounded_up(cache->capacity, TILE) / unit;
    for (int64_t d = 0; d < cache->head_dim; d += PANEL) {
        const int64_t start = ((d / PANEL * groups + place / unit) * PANEL) * unit + place % unit;
        const int64_t count = cache->head_dim - d < PANEL ? cache->head_dim - d : PANEL;
        if (is_bf16())
            store_pairs((uint16_t *)cache->values + start, value + d, count);
        else
            memcpy((float *)cache->values + start, value + d, (size_t)count * sizeof *value);
    }
}

void pi0_end_values(const struct pi0_cache *cache, int64_t keys) {
    if (is_bf16() && keys % 2)
        for (int64_t d = 0; d < cache->head_dim; d++) {
            const int64_t panel = d / PANEL * (rounded_up(cache->capacity, TILE) / 2) + keys / 2;
            ((uint16_t *)cache->values)[(panel * PANEL + d % PANEL) * 2 + 1] = 0;
        }
}

EACH_PROCESSOR
static void round_to_bf16(uint16_t *out, const float *x, int64_t count) {
    for (int64_t d = 0; d < count; d++)
        out[d] = bf16_of(x[d]);
}

void pi0_store_query(void *queries, int64_t place, const float *query, int64_t head_dim) {
    const int64_t numbers = pi0_query_numbers(head_dim);
    if (is_bf16())
        round_to_bf16((uint16_t *)queries + place * numbers, query, head_dim);
    else
        memcpy((float *)queries + place * numbers, query, (size_t)head_dim * sizeof *query);
    for (int64_t d = head_dim; d < numbers; d++)
        put(queries, place * numbers + d, 0.0f, is_bf16());
}

int64_t pi0_attention_scratch(int64_t keys) {
    return BLOCK * rounded_up(keys, TILE) * (int64_t)(2 * sizeof(float));
}

/* A row of scores becomes probabilities, not yet divided by their sum, whose inverse is returned. A score that is not
   finite makes that NaN, and the probabilities 0. */
EACH_PROCESSOR
static float soften(float *scores, int64_t keys, float scale) {
    float largest[LANES], sum[LANES] = {0};
    if (pi0_largest_bits(scores, keys) >= EXPONENT_MASK) {
        memset(scores, 0, (size_t)keys * sizeof *scores);
        return NAN;
    }
    for (int lane = 0; lane < LANES; lane++)
        largest[lane] = scores[0];
    int64_t k = 0;
    for (; k + LANES <= keys; k += LANES)
        for (int lane = 0; lane < LANES; lane++)
            largest[lane] = scores[k + lane] > largest[lane] ? scores[k + lane] : largest[lane];
    for (int lane = 0; k < keys; k++, lane++)
        largest[lane] = scores[k] > largest[lane] ? scores[k] : largest[lane];
    for (int width = LANES / 2; width; width /= 2)
        for (int lane = 0; lane < width; lane++)
            largest[lane] = largest[lane + width] > largest[lane] ? largest[lane + width] : largest[lane];
    for (k = 0; k < keys; k++) {
        const float x = (scores[k] - largest[0]) * scale;
        scores[k] = exponential(x < -87.0f ? -87.0f : x);
    }
    for (k = 0; k + LANES <= keys; k += LANES)
        for (int lane = 0; lane < LANES; lane++)
            sum[lane] += scores[k + lane];
    for (int lane = 0; k < keys; k++, lane++)
        sum[lane] += scores[k];
    for (int width = LANES / 2; width; width /= 2)
        for (int lane = 0; lane < width; lane++)
            sum[lane] += sum[lane + width];
    return 1.0f / sum[0];
}

#if X86
/* `soften` with probabilities in bfloat16: `out` [keys rounded up to LANES]. Their sum is that of the rounded ones, so that
   the weights of the values add up to 1. The power has three terms: its error is a twentieth of that of the rounding. */
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"))) static float
soften_bf16(const float *scores, int64_t keys, float scale, uint16_t *out) {
    const __m512 lowest = _mm512_set1_ps(-INFINITY);
    __m512 most = lowest;
    __m512i magnitude = _mm512_setzero_si512();
    for (int64_t k = 0; k < keys; k += 16) {
        const __mmask16 valid = keys - k < 16 ? (__mmask16)((1u << (keys - k)) - 1) : (__mmask16)0xffff;
        const __m512 x = _mm512_mask_loadu_ps(lowest, valid, scores + k);
        most = _mm512_max_ps(most, x);
        magnitude = _mm512_max_epu32(magnitude, _mm512_maskz_and_epi32(valid, _mm512_castps_si512(x),
                                                                        _mm512_set1_epi32(MAGNITUDE_MASK)));
    }
    if (_mm512_reduce_max_epu32(magnitude) >= EXPONENT_MASK) {
        memset(out, 0, (size_t)rounded_up(keys, LANES) * sizeof *out);
        return NAN;
    }
    const __m512 largest = _mm512_set1_ps(_mm512_reduce_max_ps(most)), factor = _mm512_set1_ps(scale * 1.44269504f);
    const __m512i ones = _mm512_set1_epi16(0x3f80);
    __m512 sum = _mm512_setzero_ps();
    for (int64_t k = 0; k < keys; k += LANES) {
        __m512 power[2];
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            const int64_t left = keys - k - half * 16;
            const __mmask16 valid = left >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << (left > 0 ? left : 0)) - 1);
            const __m512 x = _mm512_sub_ps(_mm512_maskz_loadu_ps(valid, scores + k + half * 16), largest);
            const __m512 exponent = _mm512_max_ps(_mm512_mul_ps(x, factor), _mm512_set1_ps(-126.0f));
            power[half] = _mm512_maskz_mov_ps(valid, power_512(exponent, 3));
        }
        const __m512bh rounded = _mm512_cvtne2ps_pbh(power[1], power[0]);
        _mm512_storeu_si512(out + k, (__m512i)rounded);
        sum = _mm512_dpbf16_ps(sum, rounded, (__m512bh)ones);
    }
    return 1.0f / _mm512_reduce_add_ps(sum);
}
#endif

/* out [rows][out_stride] = rows of `left` times tile `tile` of packed panels, of which there are `panels`. */
static void multiply(const void *left, int64_t stride, int rows, const void *right, int64_t tile, int64_t panels,
                     int64_t groups, int64_t panel_groups, float *out, int64_t out_stride) {
    const int two = panels - 2 * tile > 1;
    const int64_t first = 2 * tile * panel_groups * PANEL, second = first + panel_groups * PANEL;
    if (is_bf16()) {
        const uint16_t *numbers = right;
        pi0_bf16_tile(left, stride, rows, numbers + first * 2, two ? numbers + second * 2 : NULL, groups, out, out_stride);
    } else {
        const float *numbers = right;
        pi0_float_tile(left, stride, rows, numbers + first, two ? numbers + second : NULL, groups, out, out_stride);
    }
}

static const void *row_of(const void *numbers, int64_t index) {
    return (const char *)numbers + index * (is_bf16() ? 2 : 4);
}

void pi0_attend(const struct pi0_cache *cache, const struct pi0_queries *block, void *scratch) {
    const int64_t keys = block->keys, width = rounded_up(keys, TILE), unit = pair();
    const int64_t head_dim = cache->head_dim, groups = rounded_up(head_dim, unit) / unit;
    const float scale = 1.0f / sqrtf((float)head_dim);
    float *scores = scratch, sums[ROWS][TILE], inverse[BLOCK];
    uint16_t *rounded = (void *)(scores + BLOCK * width);
    const int64_t key_panels = (keys + PANEL - 1) / PANEL;
    for (int64_t tile = 0; tile < (key_panels + 1) / 2; tile++)
        for (int64_t row = 0; row < block->rows; row += ROWS) {
            const int rows = (int)(block->rows - row < ROWS ? block->rows - row : ROWS);
            multiply(row_of(block->queries, row * block->query_stride), block->query_stride, rows, cache->keys, tile,
                     key_panels, groups, groups, scores + row * width + tile * TILE, width);
        }
    for (int64_t row = 0; row < block->rows; row++) {
        float *own = scores + row * width;
#if X86
        if (is_bf16()) {
            inverse[row] = soften_bf16(own, keys, scale, rounded + row * width);
            continue;
        }
#endif
        inverse[row] = soften(own, keys, scale);
    }
    const int64_t value_panels = (head_dim + PANEL - 1) / PANEL, value_groups = rounded_up(cache->capacity, TILE) / unit;
    const void *left = is_bf16() ? (const void *)rounded : scores;
    for (int64_t tile = 0; tile < (value_panels + 1) / 2; tile++)
        for (int64_t row = 0; row < block->rows; row += ROWS) {
            const int rows = (int)(block->rows - row < ROWS ? block->rows - row : ROWS);
            const int64_t count = head_dim - tile * TILE < TILE ? head_dim - tile * TILE : TILE;
            multiply(row_of(left, row * width), width, rows, cache->values, tile, value_panels,
                     rounded_up(keys, unit) / unit, value_groups, sums[0], TILE);
            for (int r = 0; r < rows; r++)
                for (int64_t d = 0; d < count; d++)
                    block->out[row + r][tile * TILE + d] = sums[r][d] * inverse[row + r];
        }
}

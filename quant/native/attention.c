/* softmax(q k / sqrt(head_dim)) v for a block of queries of one head, over all keys at once.

   Both products are in INT8, and their sums are exact. Queries, keys and values have one scale per token and head
   (heads.c).

   The scale of a value multiplies the probability of its key before that is rounded to a byte. The largest of these
   weights becomes 255, so that a key of large probability and small value takes no steps from the others. Many
   small probabilities become 0 beside a large one: what rounding takes from the sum of the weights goes to all keys
   alike, as a multiple of the mean of the values in INT8. That mean is one row more in the second product.

   There is no mask: every key in the cache is valid, and the caller stores no others. The keys of two panels (16 KB
   for heads of 256) stay in the first cache for all queries of a block. */

#include "attention.h"
#include "avx512.h"

#define LOGARITHM_OF_255 7.99435344f /* to base 2 */

int64_t pi0_attention_scratch(int64_t keys) {
    return BLOCK * pi0_rounded_up(keys, TILE) * (int64_t)(sizeof(float) + 1);
}

/* What became of a row of scores. */
struct softened {
    float factor; /* of the sums of the second product; NaN where a score is not finite */
    float lost;   /* what rounding took from the sum of the weights */
};

/* A row of scores becomes weights of the values, `out` [keys rounded up to TILE]. `scores` has TILE keys and then,
   BLOCK rows on, the next ones; `steps` is that of a score between two values of the sum, to base 2. */
EACH_PROCESSOR
static struct softened soften(int32_t (*scores)[TILE], int64_t keys, float steps, const struct pi0_key_numbers *key,
                              const struct pi0_value_numbers *value, uint8_t *out) {
    float largest[LANES], sum[LANES] = {0}, lost[LANES] = {0};
    uint32_t magnitude = 0;
    for (int lane = 0; lane < LANES; lane++)
        largest[lane] = -INFINITY;
    for (int64_t from = 0; from < keys; from += LANES) {
        int32_t *own = scores[from / TILE * BLOCK] + from % TILE;
        const int count = keys - from < LANES ? (int)(keys - from) : LANES;
        for (int k = 0; k < count; k++) {
            const float score = (float)(own[k] - key->shift[from + k]) * key->scale[from + k];
            const float x = score * steps + value->logarithm[from + k];
            const uint32_t bits = bits_of(x);
            magnitude = (bits & MAGNITUDE_MASK) > magnitude ? bits & MAGNITUDE_MASK : magnitude;
            largest[k] = x > largest[k] ? x : largest[k];
            memcpy(own + k, &bits, sizeof bits);
        }
    }
    memset(out, 0, (size_t)pi0_rounded_up(keys, TILE));
    if (magnitude >= EXPONENT_MASK)
        return (struct softened){NAN, NAN};
    for (int width = LANES / 2; width; width /= 2)
        for (int lane = 0; lane < width; lane++)
            largest[lane] = largest[lane + width] > largest[lane] ? largest[lane + width] : largest[lane];
    for (int64_t from = 0; from < keys; from += LANES) {
        const int32_t *own = scores[from / TILE * BLOCK] + from % TILE;
        const int count = keys - from < LANES ? (int)(keys - from) : LANES;
        for (int k = 0; k < count; k++) {
            const float x = (float_of((uint32_t)own[k]) - (largest[0] - LOGARITHM_OF_255)) * 0.693147181f;
            const float weight = exponential(x < -87.0f ? -87.0f : x), rounded = rintf(weight);
            out[from + k] = (uint8_t)(int32_t)rounded;
            sum[k] += weight * value->inverse[from + k];
            lost[k] += weight - rounded;
        }
    }
    for (int width = LANES / 2; width; width /= 2)
        for (int lane = 0; lane < width; lane++) {
            sum[lane] += sum[lane + width];
            lost[lane] += lost[lane + width];
        }
    return (struct softened){1.0f / sum[0], lost[0]};
}

#if X86
/* The first pass over 16 scores: to base 2, with the logarithm of the value's scale. */
AVX512 INLINED __m512 weigh_512(const int32_t *score, const int32_t *shift, const float *scale, const float *logarithm,
                                __m512 steps) {
    const __m512i sum = _mm512_sub_epi32(_mm512_loadu_si512(score), _mm512_loadu_si512(shift));
    const __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_loadu_ps(scale));
    return _mm512_fmadd_ps(product, steps, _mm512_loadu_ps(logarithm));
}

/* The same; the error of powers of 2, 8e-5, is small beside that of rounding to a byte. */
AVX512 static struct softened soften_512(int32_t (*scores)[TILE], int64_t keys, float steps,
                                         const struct pi0_key_numbers *key, const struct pi0_value_numbers *value,
                                         uint8_t *out) {
    enum { LANE = 16 };
    const __m512 lowest = _mm512_set1_ps(-INFINITY), factor = _mm512_set1_ps(steps);
    __m512 most = lowest, sum = _mm512_setzero_ps(), weights = sum, zero = sum;
    __m128i bytes = _mm_setzero_si128();
    for (int64_t k = 0; k < keys; k += LANE) {
        int32_t *own = scores[k / TILE * BLOCK] + k % TILE;
        __m512 x = weigh_512(own, key->shift + k, key->scale + k, value->logarithm + k, factor);
        if (keys - k < LANE)
            x = _mm512_mask_mov_ps(_mm512_set1_ps(-1e30f), (__mmask16)((1u << (keys - k)) - 1), x);
        _mm512_storeu_ps((float *)own, x);
        most = _mm512_max_ps(most, x);
        zero = _mm512_fmadd_ps(x, _mm512_setzero_ps(), zero); /* NaN where a number is not finite */
    }
    if (isnan(_mm512_reduce_add_ps(zero))) {
        memset(out, 0, (size_t)pi0_rounded_up(keys, TILE));
        return (struct softened){NAN, NAN};
    }
    const __m512 largest = _mm512_set1_ps(_mm512_reduce_max_ps(most) - LOGARITHM_OF_255);
    for (int64_t k = 0; k < keys; k += LANE) {
        const float *own = (const float *)scores[k / TILE * BLOCK] + k % TILE;
        __m512 weight = _mm512_sub_ps(_mm512_loadu_ps(own), largest);
        power_512(&weight, 1);
        const __m128i rounded = _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(weight));
        const __mmask16 valid = keys - k < LANE ? (__mmask16)((1u << (keys - k)) - 1) : (__mmask16)0xffff;
        _mm_storeu_si128((__m128i *)(void *)(out + k), rounded);
        bytes = _mm_add_epi64(bytes, _mm_sad_epu8(rounded, _mm_setzero_si128()));
        weights = _mm512_add_ps(weights, weight);
        sum = _mm512_fmadd_ps(weight, _mm512_maskz_loadu_ps(valid, value->inverse + k), sum);
    }
    const int64_t kept = _mm_cvtsi128_si64(bytes) + _mm_extract_epi64(bytes, 1);
    return (struct softened){1.0f / _mm512_reduce_add_ps(sum), _mm512_reduce_add_ps(weights) - (float)kept};
}
#endif

/* out [count] = factor * (sums + lost * mean). */
EACH_PROCESSOR
static void finish_row(float *restrict out, const int32_t *restrict sums, const struct softened *row,
                       const float *restrict mean, int64_t count) {
    for (int64_t d = 0; d < count; d++)
        out[d] = row->factor * ((float)sums[d] + row->lost * mean[d]);
}

static int fewer(int64_t rows, int64_t row) { return (int)(rows - row < ROWS ? rows - row : ROWS); }

void pi0_attend(const struct pi0_cache *cache, const struct pi0_queries *block, void *scratch) {
    const int64_t keys = block->keys, width = pi0_rounded_up(keys, TILE), head_dim = cache->head_dim;
    const int64_t bytes = row_bytes(head_dim), groups = (keys + GROUP - 1) / GROUP, rows = block->rows;
    const float steps = 1.44269504f / (sqrtf((float)head_dim) * (float)pi0_hadamard_size(head_dim));
    const struct pi0_key_numbers key = pi0_key_numbers(cache);
    const struct pi0_value_numbers value = pi0_value_numbers(cache);
    int32_t(*scores)[TILE] = scratch, sums[BLOCK][TILE] __attribute__((aligned(LINE)));
    uint8_t *weights = (uint8_t *)scratch + BLOCK * width * (int64_t)sizeof(float);
    struct softened softened[QUERIES];
    for (int64_t first = 0; first < keys; first += TILE) {
        const int8_t *panel = (const int8_t *)cache->keys + first * bytes;
        for (int64_t row = 0; row < rows; row += ROWS)
            pi0_dot_tile(block->queries + row * bytes, bytes, fewer(rows, row), panel,
                         keys - first > PANEL ? panel + PANEL * bytes : NULL, bytes / GROUP,
                         scores + first / TILE * BLOCK + row);
    }
    for (int64_t row = 0; row < rows; row++) {
        const float own = steps * block->scale[row];
#if X86
        if (pi0_level() >= AVX512_VNNI) {
            softened[row] = soften_512(scores + row, keys, own, &key, &value, weights + row * width);
            continue;
        }
#endif
        softened[row] = soften(scores + row, keys, own, &key, &value, weights + row * width);
    }
    /* Behind the queries, the row of the mean. */
    memset(weights + rows * width, 0, (size_t)width);
    memset(weights + rows * width, 1, (size_t)keys);
    for (int64_t d = 0; d < head_dim; d += TILE) {
        const int8_t *panel = (const int8_t *)cache->values + d * pi0_value_groups(cache) * GROUP;
        const int64_t count = head_dim - d < TILE ? head_dim - d : TILE;
        for (int64_t row = 0; row <= rows; row += ROWS)
            pi0_dot_tile(weights + row * width, width, fewer(rows + 1, row), panel,
                         count > PANEL ? panel + PANEL * pi0_value_groups(cache) * GROUP : NULL, groups, sums + row);
        float mean[TILE];
        for (int64_t i = 0; i < count; i++)
            mean[i] = (float)sums[rows][i] / (float)keys;
        for (int64_t row = 0; row < rows; row++)
            finish_row(block->out[row] + d, sums[row], softened + row, mean, count);
    }
}

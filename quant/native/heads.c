/* One query, key or value of one head becomes bytes with a scale, where the attention reads it.

   Queries and keys are rotated before by a Hadamard matrix, which leaves their products and spreads what is large
   over 16 numbers. */

#include "attention.h"
#include "avx512.h"

/* Of values, 2^-60: quotients of scales stay far from the ends of float32. */
#define SMALLEST_VALUE_SCALE 8.67361738e-19f

int64_t pi0_cache_bytes(int64_t capacity, int64_t head_dim) {
    return pi0_rounded_up(capacity, TILE) * (pi0_rounded_up(head_dim, PANEL) + 8);
}

static void *behind_panels(void *panels, const struct pi0_cache *cache) {
    return (char *)panels + pi0_rounded_up(cache->capacity, TILE) * pi0_rounded_up(cache->head_dim, PANEL);
}

struct pi0_key_numbers pi0_key_numbers(const struct pi0_cache *cache) {
    float *first = behind_panels(cache->keys, cache);
    const struct pi0_key_numbers numbers = {first, (int32_t *)(void *)(first + pi0_rounded_up(cache->capacity, TILE))};
    return numbers;
}

struct pi0_value_numbers pi0_value_numbers(const struct pi0_cache *cache) {
    float *first = behind_panels(cache->values, cache);
    const struct pi0_value_numbers numbers = {first, first + pi0_rounded_up(cache->capacity, TILE)};
    return numbers;
}

/* Rows of the Hadamard matrix, its numbers 1 and -1. */
int64_t pi0_hadamard_size(int64_t head_dim) {
    const int64_t power = head_dim & -head_dim;
    return power < 16 ? power : 16;
}

/* x times the matrix: it joins numbers that lie head_dim / size apart. */
EACH_PROCESSOR
static void rotate(float *x, int64_t head_dim) {
    for (int64_t half = head_dim / pi0_hadamard_size(head_dim); half < head_dim; half *= 2)
        for (int64_t first = 0; first < head_dim; first += 2 * half) {
            float *restrict left = x + first, *restrict right = left + half;
            for (int64_t d = 0; d < half; d++) {
                const float sum = left[d] + right[d], difference = left[d] - right[d];
                left[d] = sum;
                right[d] = difference;
            }
        }
}

/* The scale of a row with these bits as its largest magnitude; NaN where that is not finite. */
INLINED float scale_of(uint32_t largest, float smallest) {
    const float found = float_of(largest) * (float)(1.0 / 127.0);
    if (largest >= EXPONENT_MASK)
        return NAN;
    return found > smallest ? found : smallest;
}

EACH_PROCESSOR
static void round_head(const float *x, int64_t head_dim, float inverse, int32_t offset, uint8_t *bytes) {
    for (int64_t d = 0; d < head_dim; d++)
        bytes[d] = (uint8_t)((int32_t)rintf(x[d] * inverse) + offset);
}

#if X86
enum { LANE = 16 };

AVX512 INLINED __mmask16 first_512(int64_t count) {
    return count < LANE ? (__mmask16)((1u << count) - 1) : (__mmask16)0xffff;
}

AVX512 INLINED __m512i larger_512(__m512i largest, __m512 x) {
    const __m512i magnitude = _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(MAGNITUDE_MASK));
    return _mm512_max_epu32(largest, magnitude);
}

AVX512 INLINED void round_512(__m512 x, __m512 inverse, __m512i offset, __mmask16 valid, uint8_t *bytes) {
    const __m512i rounded = _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(x, inverse)), offset);
    _mm_mask_storeu_epi8(bytes, valid, _mm512_cvtepi32_epi8(rounded));
}

/* `rotate`, the scale and the bytes in one, without memory between them: for heads of up to 16 `size` numbers. */
AVX512 INLINED float rotate_and_round_512(const int size, const float *x, int64_t head_dim, int32_t offset,
                                          uint8_t *bytes) {
    const int64_t apart = head_dim / size;
    const __mmask16 valid = first_512(apart);
    __m512i largest = _mm512_setzero_si512();
    __m512 part[16];
#pragma GCC unroll 16
    for (int i = 0; i < size; i++)
        part[i] = _mm512_maskz_loadu_ps(valid, x + i * apart);
#pragma GCC unroll 4
    for (int half = 1; half < size; half *= 2)
#pragma GCC unroll 8
        for (int pair = 0; pair < size / 2; pair++) {
            const int left = pair / half * 2 * half + pair % half, right = left + half;
            const __m512 sum = _mm512_add_ps(part[left], part[right]);
            part[right] = _mm512_sub_ps(part[left], part[right]);
            part[left] = sum;
        }
#pragma GCC unroll 16
    for (int i = 0; i < size; i++)
        largest = larger_512(largest, part[i]);
    const float scale = scale_of(_mm512_reduce_max_epu32(largest), SMALLEST_SCALE);
    const __m512 inverse = _mm512_set1_ps(1.0f / scale);
#pragma GCC unroll 16
    for (int i = 0; i < size; i++)
        round_512(part[i], inverse, _mm512_set1_epi32(offset), valid, bytes + i * apart);
    return scale;
}

/* The same without rotation, for heads of any size. */
AVX512 static float round_head_512(const float *x, int64_t head_dim, float smallest, int32_t offset, uint8_t *bytes) {
    __m512i largest = _mm512_setzero_si512();
    for (int64_t d = 0; d < head_dim; d += LANE)
        largest = larger_512(largest, _mm512_maskz_loadu_ps(first_512(head_dim - d), x + d));
    const float scale = scale_of(_mm512_reduce_max_epu32(largest), smallest);
    const __m512 inverse = _mm512_set1_ps(1.0f / scale);
    for (int64_t d = 0; d < head_dim; d += LANE) {
        const __mmask16 valid = first_512(head_dim - d);
        round_512(_mm512_maskz_loadu_ps(valid, x + d), inverse, _mm512_set1_epi32(offset), valid, bytes + d);
    }
    return scale;
}

AVX512 static float quantize_rotated_512(float *x, int64_t head_dim, int32_t offset, uint8_t *bytes) {
    const int64_t size = pi0_hadamard_size(head_dim);
    if (size == 16 && head_dim <= 16 * LANE)
        return rotate_and_round_512(16, x, head_dim, offset, bytes);
    if (size == 8 && head_dim <= 8 * LANE)
        return rotate_and_round_512(8, x, head_dim, offset, bytes);
    rotate(x, head_dim);
    return round_head_512(x, head_dim, SMALLEST_SCALE, offset, bytes);
}

/* 16 numbers at a time, each to the byte of `place` in the four of its group. */
AVX512 static void spread_512(const int8_t *bytes, int64_t head_dim, int64_t panel_bytes, int64_t place,
                              int8_t *values) {
    const __mmask64 own = 0x1111111111111111ull << place % GROUP;
    for (int64_t d = 0; d < head_dim; d += LANE) {
        const __m128i sixteen = _mm_maskz_loadu_epi8(first_512(head_dim - d), bytes + d);
        const __m512i shifted = _mm512_sll_epi32(_mm512_cvtepu8_epi32(sixteen), _mm_cvtsi64_si128(place % GROUP * 8));
        _mm512_mask_storeu_epi8(values + d / PANEL * panel_bytes + d % PANEL * GROUP, own, shifted);
    }
}
#endif

/* x [head_dim] -> bytes [head_dim], INT8 plus `offset`, and their scale, at least `smallest`; NaN where a number is not
   finite, with bytes that say nothing. `bytes` may be the memory of `x`, which is changed. */
static float quantize_head(float *x, int64_t head_dim, float smallest, int32_t offset, void *bytes) {
#if X86
    if (pi0_level() >= AVX512_VNNI)
        return round_head_512(x, head_dim, smallest, offset, bytes);
#endif
    const float scale = scale_of(pi0_largest_bits(x, head_dim), smallest);
    if (!isnan(scale))
        round_head(x, head_dim, 1.0f / scale, offset, bytes);
    return scale;
}

static float quantize_rotated(float *x, int64_t head_dim, int32_t offset, void *bytes) {
#if X86
    if (pi0_level() >= AVX512_VNNI)
        return quantize_rotated_512(x, head_dim, offset, bytes);
#endif
    rotate(x, head_dim);
    return quantize_head(x, head_dim, SMALLEST_SCALE, offset, bytes);
}

EACH_PROCESSOR
static int32_t sum_of(const int8_t *bytes, int64_t count) {
    int32_t sum = 0;
    for (int64_t d = 0; d < count; d++)
        sum += bytes[d];
    return sum;
}

void pi0_store_query(float *query, int64_t head_dim, uint8_t *bytes, float *scale) {
    *scale = quantize_rotated(query, head_dim, BYTE_SHIFT, bytes);
    for (int64_t d = head_dim; d < row_bytes(head_dim); d++)
        bytes[d] = BYTE_SHIFT;
}

void pi0_store_key(const struct pi0_cache *cache, int64_t place, float *key) {
    const struct pi0_key_numbers numbers = pi0_key_numbers(cache);
    const int64_t bytes = row_bytes(cache->head_dim);
    int8_t *rounded = (int8_t *)key;
    int8_t *out = (int8_t *)cache->keys + place / PANEL * PANEL * bytes + place % PANEL * GROUP;
    numbers.scale[place] = quantize_rotated(key, cache->head_dim, 0, rounded);
    for (int64_t d = cache->head_dim; d < bytes; d++)
        rounded[d] = 0;
    numbers.shift[place] = BYTE_SHIFT * sum_of(rounded, bytes);
    for (int64_t d = 0; d < bytes; d += GROUP)
        memcpy(out + d * PANEL, rounded + d, GROUP);
}

void pi0_store_value(const struct pi0_cache *cache, int64_t place, float *value) {
    const struct pi0_value_numbers numbers = pi0_value_numbers(cache);
    const int64_t panel_bytes = pi0_value_groups(cache) * PANEL * GROUP;
    int8_t *rounded = (int8_t *)value, *out = (int8_t *)cache->values + place / GROUP * PANEL * GROUP;
    const float scale = quantize_head(value, cache->head_dim, SMALLEST_VALUE_SCALE, 0, rounded);
    numbers.logarithm[place] = log2f(scale);
    numbers.inverse[place] = 1.0f / scale;
#if X86
    if (pi0_level() >= AVX512_VNNI) {
        spread_512(rounded, cache->head_dim, panel_bytes, place, out);
        return;
    }
#endif
    for (int64_t d = 0; d < cache->head_dim; d++)
        out[d / PANEL * panel_bytes + d % PANEL * GROUP + place % GROUP] = rounded[d];
}

/* Functions of 16 floats in AVX-512, for the passes that cost most behind a product and in the attention. */

#ifndef PI0_AVX512_H
#define PI0_AVX512_H

#include "native.h"

#if X86
#include <immintrin.h>
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))

/* 2^x for finite x: 2^n by the exponent, times a polynomial for the rest, which is in [-1/2, 1/2]. `terms` is 3,
   relative error below 8e-5, or 5, below 2e-7; the coefficients are those with the least relative error. */
AVX512 INLINED __m512 power_512(__m512 x, const int terms) {
    static const float three[] = {0.0551716648f, 0.242611125f, 0.693260968f, 0.999928057f};
    static const float five[] = {1.32764713e-3f, 9.67554096e-3f, 0.0555071309f, 0.240221202f, 0.693146944f, 1.00000012f};
    const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 rest = _mm512_sub_ps(x, whole);
    const float *coefficients = terms == 3 ? three : five;
    __m512 sum = _mm512_set1_ps(coefficients[0]);
#pragma GCC unroll 5
    for (int i = 1; i <= terms; i++)
        sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(coefficients[i]));
    return _mm512_scalef_ps(sum, whole);
}

/* `gelu` of native.h: x / (1 + 2^z), relative error below 2e-4: power and quotient are estimates of 14 bits, because what
   follows keeps 8. A value that is not finite stays so. */
AVX512 INLINED __m512 gelu_512(__m512 x) {
    const float logarithm = 1.44269504f; /* of e to base 2 */
    const __m512 slope = _mm512_fmadd_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(-1.5957691216f * 0.044715f * logarithm),
                                         _mm512_set1_ps(-1.5957691216f * logarithm));
    const int smaller_with_sign = 2; /* of the two magnitudes; the sign of the first */
    const __m512 z = _mm512_range_ps(_mm512_mul_ps(x, slope), _mm512_set1_ps(126.0f), smaller_with_sign);
    return _mm512_mul_ps(x, _mm512_rcp14_ps(_mm512_add_ps(_mm512_set1_ps(1.0f), power_512(z, 3))));
}

/* `pi0_dot_tile`: avx512.c. */
void pi0_dot_512(const uint8_t *tokens, int64_t stride, int rows, const int8_t *first, const int8_t *second,
                 int64_t groups, int32_t (*sums)[TILE]);
#endif

#endif

/* Functions of 16 floats in AVX-512, for the passes that cost most behind a product and in the attention. */

#ifndef PI0_AVX512_H
#define PI0_AVX512_H

#include "native.h"

#if X86
#include <immintrin.h>
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))

/* 2^x of `count` registers, relative error below 8e-5: 2^n by the exponent, times a polynomial for the rest, which
   is in [-1/2, 1/2]; its coefficients are those with the least relative error. All registers take each step
   together: one after the other, the processor waits for the latency of each, because it looks ahead over three of
   them. */
AVX512 INLINED void power_512(__m512 *x, const int count) {
    static const float coefficients[] = {0.0551716648f, 0.242611125f, 0.693260968f, 0.999928057f};
    __m512 whole[4], rest[4];
#pragma GCC unroll 4
    for (int i = 0; i < count; i++)
        whole[i] = _mm512_roundscale_ps(x[i], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#pragma GCC unroll 4
    for (int i = 0; i < count; i++)
        rest[i] = _mm512_sub_ps(x[i], whole[i]);
#pragma GCC unroll 4
    for (int i = 0; i < count; i++)
        x[i] = _mm512_set1_ps(coefficients[0]);
#pragma GCC unroll 3
    for (int term = 1; term < 4; term++)
#pragma GCC unroll 4
        for (int i = 0; i < count; i++)
            x[i] = _mm512_fmadd_ps(x[i], rest[i], _mm512_set1_ps(coefficients[term]));
#pragma GCC unroll 4
    for (int i = 0; i < count; i++)
        x[i] = _mm512_scalef_ps(x[i], whole[i]);
}

/* `gelu` of native.h for `count` registers: x / (1 + 2^z), relative error below 2e-4: power and quotient are estimates,
   because what follows keeps 8 bits. A value that is not finite stays so. */
AVX512 INLINED void gelu_512(__m512 *x, const int count) {
    const float logarithm = 1.44269504f; /* of e to base 2 */
    const int smaller_with_sign = 2;     /* of two magnitudes; the sign of the first */
    __m512 z[4];
#pragma GCC unroll 4
    for (int i = 0; i < count; i++)
        z[i] = _mm512_mul_ps(x[i], x[i]);
#pragma GCC unroll 4
    for (int i = 0; i < count; i++)
        z[i] = _mm512_fmadd_ps(z[i], _mm512_set1_ps(-1.5957691216f * 0.044715f * logarithm),
                               _mm512_set1_ps(-1.5957691216f * logarithm));
#pragma GCC unroll 4
    for (int i = 0; i < count; i++)
        z[i] = _mm512_range_ps(_mm512_mul_ps(x[i], z[i]), _mm512_set1_ps(126.0f), smaller_with_sign);
    power_512(z, count);
#pragma GCC unroll 4
    for (int i = 0; i < count; i++)
        z[i] = _mm512_rcp14_ps(_mm512_add_ps(_mm512_set1_ps(1.0f), z[i]));
#pragma GCC unroll 4
    for (int i = 0; i < count; i++)
        x[i] = _mm512_mul_ps(x[i], z[i]);
}

/* `pi0_dot_tile`: avx512.c. */
void pi0_dot_512(const uint8_t *tokens, int64_t stride, int rows, const int8_t *first, const int8_t *second,
                 int64_t groups, int32_t (*sums)[TILE]);
#endif

#endif

/* The innermost product, one form for each set of instructions: 6 rows times 64 columns, summed in registers.

   | level       | INT8                            |
   |-------------|---------------------------------|
   | PORTABLE    | plain C                         |
   | AVX2        | pairs of 16-bit products, exact |
   | AVX_VNNI    | vpdpbusd on 256 bits            |
   | AVX512_VNNI | vpdpbusd on 512 bits: avx512.c  |
   | NEON_DOT    | sdot                            |

   All forms give the same sums. x86's older instruction for pairs of bytes (vpmaddubsw) saturates and is not used. */

#include "avx512.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#include <sys/auxv.h>
#ifndef HWCAP_ASIMDDP
#define HWCAP_ASIMDDP (1 << 20)
#endif
#endif

/* Calls `form` with the number of rows as a constant, so that the sums stay in registers. */
#define FOR_ROWS(form, rows, ...)                                                                                      \
    switch (rows) {                                                                                                    \
    case 1: form(1, __VA_ARGS__); break;                                                                               \
    case 2: form(2, __VA_ARGS__); break;                                                                               \
    case 3: form(3, __VA_ARGS__); break;                                                                               \
    case 4: form(4, __VA_ARGS__); break;                                                                               \
    case 5: form(5, __VA_ARGS__); break;                                                                               \
    default: form(6, __VA_ARGS__);                                                                                     \
    }

static void dot_portable(const uint8_t *tokens, int64_t stride, int rows, const int8_t *first, const int8_t *second,
                         int64_t groups, int32_t (*sums)[TILE]) {
    for (int row = 0; row < rows; row++)
        for (int half = 0; half < (second ? 2 : 1); half++) {
            const int8_t *weights = half ? second : first;
            int32_t *own = sums[row] + half * PANEL;
            memset(own, 0, PANEL * sizeof *own);
            for (int64_t group = 0; group < groups; group++)
                for (int column = 0; column < PANEL; column++)
                    for (int k = 0; k < GROUP; k++)
                        own[column] += tokens[row * stride + group * GROUP + k] *
                                       weights[(group * PANEL + column) * GROUP + k];
        }
}

#if X86
INLINED int32_t four_bytes(const uint8_t *tokens) {
    int32_t four;
    memcpy(&four, tokens, sizeof four);
    return four;
}

/* 16 columns at a time: 6 x 2 of the 16 registers. */
__attribute__((target("avx2,avxvnni"))) INLINED void dot_256(const int rows, const uint8_t *tokens, int64_t stride,
                                                             const int8_t *weights, int64_t groups, int32_t *sums) {
    __m256i sum[ROWS][2];
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++)
        sum[row][0] = sum[row][1] = _mm256_setzero_si256();
    for (int64_t group = 0; group < groups; group++) {
        const __m256i left = _mm256_loadu_si256((const __m256i *)(weights + group * PANEL * GROUP));
        const __m256i right = _mm256_loadu_si256((const __m256i *)(weights + group * PANEL * GROUP + 32));
#pragma GCC unroll 6
        for (int row = 0; row < rows; row++) {
            const __m256i four = _mm256_set1_epi32(four_bytes(tokens + row * stride + group * GROUP));
            sum[row][0] = _mm256_dpbusd_avx_epi32(sum[row][0], four, left);
            sum[row][1] = _mm256_dpbusd_avx_epi32(sum[row][1], four, right);
        }
    }
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++) {
        _mm256_storeu_si256((__m256i *)(sums + row * TILE), sum[row][0]);
        _mm256_storeu_si256((__m256i *)(sums + row * TILE + 8), sum[row][1]);
    }
}

__attribute__((target("avx2,avxvnni"))) static void dot_avx_vnni(const uint8_t *tokens, int64_t stride, int rows,
                                                                 const int8_t *first, const int8_t *second,
                                                                 int64_t groups, int32_t (*sums)[TILE]) {
    for (int column = 0; column < (second ? TILE : PANEL); column += 16) {
        const int8_t *weights = (column < PANEL ? first : second) + column % PANEL * GROUP;
        FOR_ROWS(dot_256, rows, tokens, stride, weights, groups, sums[0] + column)
    }
}

/* 8 columns at a time. A register holds two sums for each of 4 columns, which are added at the end. */
__attribute__((target("avx2"))) INLINED void dot_pairs(const int rows, const uint8_t *tokens, int64_t stride,
                                                       const int8_t *weights, int64_t groups, int32_t *sums) {
    __m256i sum[ROWS][2];
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++)
        sum[row][0] = sum[row][1] = _mm256_setzero_si256();
    for (int64_t group = 0; group < groups; group++) {
        const __m128i *source = (const __m128i *)(weights + group * PANEL * GROUP);
        const __m256i left = _mm256_cvtepi8_epi16(_mm_loadu_si128(source));
        const __m256i right = _mm256_cvtepi8_epi16(_mm_loadu_si128(source + 1));
#pragma GCC unroll 6
        for (int row = 0; row < rows; row++) {
            const __m256i four = _mm256_cvtepu8_epi16(_mm_set1_epi32(four_bytes(tokens + row * stride + group * GROUP)));
            sum[row][0] = _mm256_add_epi32(sum[row][0], _mm256_madd_epi16(four, left));
            sum[row][1] = _mm256_add_epi32(sum[row][1], _mm256_madd_epi16(four, right));
        }
    }
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++) {
        const __m256i added = _mm256_hadd_epi32(sum[row][0], sum[row][1]); /* columns 0 1 4 5 2 3 6 7 */
        _mm256_storeu_si256((__m256i *)(sums + row * TILE), _mm256_permute4x64_epi64(added, 0xd8));
    }
}

__attribute__((target("avx2"))) static void dot_avx2(const uint8_t *tokens, int64_t stride, int rows,
                                                     const int8_t *first, const int8_t *second, int64_t groups,
                                                     int32_t (*sums)[TILE]) {
    for (int column = 0; column < (second ? TILE : PANEL); column += 8) {
        const int8_t *weights = (column < PANEL ? first : second) + column % PANEL * GROUP;
        FOR_ROWS(dot_pairs, rows, tokens, stride, weights, groups, sums[0] + column)
    }
}
#endif

#if defined(__aarch64__)
/* 16 columns at a time: 6 x 4 of the 32 registers. `sdot` wants signed tokens: the top bit is flipped back, and the
   shift that the caller subtracts is added again by a dot product with -128. */
__attribute__((target("arch=armv8.2-a+dotprod"))) INLINED void dot_sixteen(const int rows, const uint8_t *tokens, int64_t stride,
                                                             const int8_t *weights, int64_t groups, int32_t *sums) {
    int32x4_t sum[ROWS][4], shift[4];
    const int8x16_t lowest = vdupq_n_s8(-128);
    for (int c = 0; c < 4; c++) {
        shift[c] = vdupq_n_s32(0);
        for (int row = 0; row < rows; row++)
            sum[row][c] = vdupq_n_s32(0);
    }
    for (int64_t group = 0; group < groups; group++) {
        int8x16_t four[4];
#pragma GCC unroll 4
        for (int c = 0; c < 4; c++) {
            four[c] = vld1q_s8(weights + group * PANEL * GROUP + c * 16);
            shift[c] = vdotq_s32(shift[c], four[c], lowest);
        }
#pragma GCC unroll 6
        for (int row = 0; row < rows; row++) {
            uint32_t bytes;
            memcpy(&bytes, tokens + row * stride + group * GROUP, sizeof bytes);
            const int8x16_t token = vreinterpretq_s8_u32(vdupq_n_u32(bytes ^ 0x80808080u));
#pragma GCC unroll 4
            for (int c = 0; c < 4; c++)
                sum[row][c] = vdotq_s32(sum[row][c], four[c], token);
        }
    }
    for (int row = 0; row < rows; row++)
        for (int c = 0; c < 4; c++)
            vst1q_s32(sums + row * TILE + c * 4, vsubq_s32(sum[row][c], shift[c]));
}

__attribute__((target("arch=armv8.2-a+dotprod"))) static void dot_neon(const uint8_t *tokens, int64_t stride, int rows,
                                                         const int8_t *first, const int8_t *second, int64_t groups,
                                                         int32_t (*sums)[TILE]) {
    for (int column = 0; column < (second ? TILE : PANEL); column += 16) {
        const int8_t *weights = (column < PANEL ? first : second) + column % PANEL * GROUP;
        FOR_ROWS(dot_sixteen, rows, tokens, stride, weights, groups, sums[0] + column)
    }
}
#endif

static int chosen = -1;

/* The fastest level of this processor. */
int pi0_best_level(void) {
#if X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vnni"))
        return AVX512_VNNI;
    if (__builtin_cpu_supports("avx2"))
        return __builtin_cpu_supports("avxvnni") ? AVX_VNNI : AVX2;
#elif defined(__aarch64__)
    if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP)
        return NEON_DOT;
#endif
    return PORTABLE;
}

/* The level in use. */
int pi0_level(void) {
    if (chosen < 0)
        chosen = pi0_best_level();
    return chosen;
}

/* Uses another level from now on, which this processor must have: for tests and comparisons. */
void pi0_use_level(int level) { chosen = level; }

void pi0_dot_tile(const uint8_t *tokens, int64_t stride, int rows, const int8_t *first, const int8_t *second,
                  int64_t groups, int32_t (*sums)[TILE]) {
    const int level = pi0_level();
#if X86
    if (level >= AVX512_VNNI) {
        pi0_dot_512(tokens, stride, rows, first, second, groups, sums);
        return;
    }
    if (level >= AVX2) {
        (level == AVX2 ? dot_avx2 : dot_avx_vnni)(tokens, stride, rows, first, second, groups, sums);
        return;
    }
#elif defined(__aarch64__)
    if (level == NEON_DOT) {
        dot_neon(tokens, stride, rows, first, second, groups, sums);
        return;
    }
#endif
    (void)level;
    dot_portable(tokens, stride, rows, first, second, groups, sums);
}

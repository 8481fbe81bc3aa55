/* A tile of the INT8 product in AVX-512 with VNNI, and what becomes of its sums.

   Sums that are scaled, stored or added go from the registers to their place: through two buffers they cost 2 % of a
   product of the vision tower (depth 1152) more. */

#include "avx512.h"
#include "product.h"

#if X86
#define VNNI __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))

enum { LANE = 16 }; /* numbers of a register */

static const float zeros[PANEL] = {0};
static const float ones[PANEL] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                  1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

INLINED int32_t four_bytes(const uint8_t *tokens) {
    int32_t four;
    memcpy(&four, tokens, sizeof four);
    return four;
}

/* Where the results of a block go: row `first` of the product and one column of it. */
struct target {
    float *out;
    int64_t stride;
    int width;  /* of the panel */
    int stream; /* past the caches: whole panels at addresses that allow it */
};

INLINED struct target target_of(const struct pi0_product *p, int64_t first, const struct place *place) {
    float *out = p->out + first * p->out_stride + place->column;
    const int aligned = (uintptr_t)out % LINE == 0 && p->out_stride % LANE == 0 && place->width == PANEL;
    const struct target target = {out, p->out_stride, place->width, p->large && aligned};
    return target;
}

/* Stores columns c to c + 16 of one row of a panel, of which those below its width exist. */
AVX512 INLINED void put_512(const struct target *target, int row, int c, __m512 value) {
    float *out = target->out + row * target->stride + c;
    const int left = target->width - c;
    if (target->stream)
        _mm512_stream_ps(out, value);
    else if (left >= LANE)
        _mm512_storeu_ps(out, value);
    else if (left > 0)
        _mm512_mask_storeu_ps(out, (__mmask16)((1u << left) - 1), value);
}

AVX512 INLINED __m512 get_512(const float *from, int left) {
    if (left >= LANE)
        return _mm512_loadu_ps(from);
    return _mm512_maskz_loadu_ps(left > 0 ? (__mmask16)((1u << left) - 1) : 0, from);
}

AVX512 INLINED __m512 scaled_512(__m512i sum, __m512i shift, __m512 scale, __m512 token_scale, __m512 bias) {
    const __m512 exact = _mm512_cvtepi32_ps(_mm512_sub_epi32(sum, shift));
    return _mm512_add_ps(_mm512_mul_ps(_mm512_mul_ps(exact, scale), token_scale), bias);
}

/* What one call of the tile works on. */
struct task {
    const uint8_t *tokens;
    int64_t stride;
    const int8_t *weights[2];
    int64_t groups;
    const void *ahead;
    int64_t step;
    int32_t (*before)[TILE]; /* sums to start from, or NULL */
    int32_t (*sums)[TILE];   /* where sums go that are not finished */
};

/* `count` registers of 16 columns each: 4 of two panels, or 2 of one. With `finished` the sums are scaled and stored or
   added, else they are kept. */
VNNI INLINED void tile_512(const int rows, const int count, const int finished, const struct task *task,
                           const struct pi0_product *p, int64_t row_before, const struct place *place) {
    const uint8_t *tokens = task->tokens;
    const int64_t stride = task->stride, groups = task->groups, step = task->ahead ? task->step : 0;
    const int8_t *first = task->weights[0], *second = task->weights[1], *ahead = step ? task->ahead : first;
    int32_t(*const before)[TILE] = task->before, (*const sums)[TILE] = task->sums;
    __m512i sum[ROWS][4];
    if (before) {
#pragma GCC unroll 6
        for (int row = 0; row < rows; row++)
#pragma GCC unroll 4
            for (int c = 0; c < count; c++)
                sum[row][c] = _mm512_loadu_si512(before[row] + c * LANE);
    } else {
#pragma GCC unroll 6
        for (int row = 0; row < rows; row++)
#pragma GCC unroll 4
            for (int c = 0; c < count; c++)
                sum[row][c] = _mm512_setzero_si512();
    }
    for (int64_t group = 0; group < groups; group++) {
        __m512i weights[4];
        __builtin_prefetch(ahead + group * step, 0, 2);
#pragma GCC unroll 4
        for (int c = 0; c < count; c++)
            weights[c] = _mm512_loadu_si512((c < 2 ? first : second) + group * PANEL * GROUP + (c & 1) * 64);
#pragma GCC unroll 6
        for (int row = 0; row < rows; row++) {
            const __m512i four = _mm512_set1_epi32(four_bytes(tokens + row * stride + group * GROUP));
#pragma GCC unroll 4
            for (int c = 0; c < count; c++)
                sum[row][c] = _mm512_dpbusd_epi32(sum[row][c], four, weights[c]);
        }
    }
    if (!finished) {
#pragma GCC unroll 6
        for (int row = 0; row < rows; row++)
#pragma GCC unroll 4
            for (int c = 0; c < count; c++)
                _mm512_storeu_si512(sums[row] + c * LANE, sum[row][c]);
        return;
    }
#pragma GCC unroll 4
    for (int c = 0; c < count; c++) {
        const struct place *own = place + c / 2;
        const struct pi0_linear *linear = own->linear;
        const struct target target = target_of(p, row_before, own);
        const int64_t column = c % 2 * LANE, channel = own->channel + column;
        const __m512i shift = _mm512_loadu_si512(linear->shift + channel);
        const __m512 scale = _mm512_loadu_ps(linear->scale + channel);
        const __m512 bias = _mm512_loadu_ps(linear->bias ? linear->bias + channel : zeros);
#pragma GCC unroll 6
        for (int row = 0; row < rows; row++) {
            __m512 value = scaled_512(sum[row][c], shift, scale, _mm512_set1_ps(p->token_scale[row_before + row]), bias);
            if (p->result == ADD) {
                const int left = own->width - (int)column;
                const float *out = target.out + row * target.stride + column;
                const float *gate = p->gate ? pi0_gate_of(p, row_before + row) + own->column + column : ones;
                value = _mm512_add_ps(get_512(out, left), _mm512_mul_ps(get_512(gate, p->gate ? left : LANE), value));
            }
            put_512(&target, row, (int)column, value);
        }
    }
}

#define FOR_ROWS(rows, ...)                                                                                            \
    switch (rows) {                                                                                                    \
    case 1: tile_512(1, __VA_ARGS__); break;                                                                           \
    case 2: tile_512(2, __VA_ARGS__); break;                                                                           \
    case 3: tile_512(3, __VA_ARGS__); break;                                                                           \
    case 4: tile_512(4, __VA_ARGS__); break;                                                                           \
    case 5: tile_512(5, __VA_ARGS__); break;                                                                           \
    default: tile_512(6, __VA_ARGS__);                                                                                 \
    }

VNNI static void keep_512(int rows, const struct task *task) {
    if (task->weights[1])
        FOR_ROWS(rows, 4, 0, task, NULL, 0, NULL)
    else
        FOR_ROWS(rows, 2, 0, task, NULL, 0, NULL)
}

VNNI static void finish_512(int rows, const struct task *task, const struct pi0_product *p, int64_t first,
                            const struct place *place) {
    if (task->weights[1])
        FOR_ROWS(rows, 4, 1, task, p, first, place)
    else
        FOR_ROWS(rows, 2, 1, task, p, first, place)
}

/* What the sums of 16 channels are multiplied and shifted with. */
struct channels {
    __m512i shift;
    __m512 scale, bias;
};

AVX512 INLINED struct channels channels_512(const struct place *place, int column) {
    const struct pi0_linear *linear = place->linear;
    const int64_t channel = place->channel + column;
    const struct channels channels = {_mm512_loadu_si512(linear->shift + channel),
                                      _mm512_loadu_ps(linear->scale + channel),
                                      _mm512_loadu_ps(linear->bias ? linear->bias + channel : zeros)};
    return channels;
}

AVX512 INLINED __m512 scaled_with_512(const int32_t *sums, const struct channels *with, __m512 token_scale) {
    return scaled_512(_mm512_loadu_si512(sums), with->shift, with->scale, token_scale, with->bias);
}

AVX512 INLINED void keep_largest_512(uint32_t *largest, __m512 low, __m512 high) {
    const __m512i mask = _mm512_set1_epi32(MAGNITUDE_MASK);
    const __m512i two = _mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(low), mask),
                                         _mm512_and_si512(_mm512_castps_si512(high), mask));
    _mm512_storeu_si512(largest, _mm512_max_epu32(_mm512_loadu_si512(largest), two));
}

/* `pair_of` of native.h: one cache line. */
AVX512 INLINED void put_pairs_512(uint32_t *out, int large, __m512 low, __m512 high) {
    const __m512i half = _mm512_set1_epi32(0x8000), upper = _mm512_set1_epi32((int32_t)0xffff0000u);
    const __m512i pairs = _mm512_or_si512(_mm512_srli_epi32(_mm512_add_epi32(_mm512_castps_si512(low), half), 16),
                                          _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(high), half), upper));
    if (large)
        _mm512_stream_si512((void *)out, pairs);
    else
        _mm512_storeu_si512(out, pairs);
}

/* Sums become hidden values, 32 columns of two rows at a time. */
AVX512 static void activate_512(const struct pi0_product *p, int64_t first, int rows, const struct place *place,
                                int count, int32_t (*sums)[TILE], uint32_t (*largest)[MAXIMA]) {
    const int both = p->result == GEGLU;
    for (int panel = 0; panel < (both ? 1 : count); panel++) {
        const struct channels own[2] = {channels_512(place + panel, 0), channels_512(place + panel, LANE)};
        const struct place *other = place + (both ? 1 : panel);
        const struct channels up[2] = {channels_512(other, 0), channels_512(other, LANE)};
        for (int pair = 0; pair < rows; pair += 2) {
            const int row[2] = {pair, pair + 1 < rows ? pair + 1 : pair};
            __m512 value[4];
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++)
                value[i] = scaled_with_512(sums[row[i / 2]] + panel * PANEL + i % 2 * LANE, own + i % 2,
                                           _mm512_set1_ps(p->token_scale[first + row[i / 2]]));
            gelu_512(value, 4);
            if (both)
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++)
                    value[i] = _mm512_mul_ps(value[i],
                                             scaled_with_512(sums[row[i / 2]] + PANEL + i % 2 * LANE, up + i % 2,
                                                             _mm512_set1_ps(p->token_scale[first + row[i / 2]])));
#pragma GCC unroll 2
            for (int i = 0; i < 2; i++) {
                const int64_t place_of_row = (first + row[i]) * p->out_stride + place[panel].column;
                keep_largest_512(largest[row[i]], value[2 * i], value[2 * i + 1]);
                put_pairs_512(p->hidden + place_of_row / 2, p->large, value[2 * i], value[2 * i + 1]);
            }
        }
    }
}

void pi0_dot_512(const uint8_t *tokens, int64_t stride, int rows, const int8_t *first, const int8_t *second,
                 int64_t groups, int32_t (*sums)[TILE]) {
    const struct task task = {
        .tokens = tokens, .stride = stride, .weights = {first, second}, .groups = groups, .sums = sums};
    keep_512(rows, &task);
}

void pi0_tile_512(const struct pi0_product *p, int64_t first, int rows, const struct place *place, int count,
                  const struct pi0_tile *tile) {
    struct task task = {.tokens = tile->tokens,
                        .stride = tile->stride,
                        .weights = {tile->weights[0], tile->weights[1]},
                        .groups = tile->groups,
                        .ahead = tile->ahead,
                        .step = tile->step,
                        .before = tile->begins ? NULL : tile->kept,
                        .sums = tile->kept};
    int32_t sums[ROWS][TILE] __attribute__((aligned(LINE)));
    if (!tile->ends) {
        keep_512(rows, &task);
    } else if (p->result == GELU || p->result == GEGLU) {
        task.sums = sums;
        keep_512(rows, &task);
        activate_512(p, first, rows, place, count, sums, tile->largest);
    } else {
        finish_512(rows, &task, p, first, place);
    }
}
#endif

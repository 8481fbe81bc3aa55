/* Products and attention of the C library, each with plain C and with the fastest instructions of this processor. Prints
   the levels and how many results differ (products) or are off (attention); for `test_native_arm.py`. */

#include "attention.h"
#include <stdio.h>
#include <stdlib.h>

int pi0_best_level(void);
void pi0_use_level(int level);
void pi0_pack_weight(const int8_t *weight, int64_t width, int64_t depth, int8_t *panels, int32_t *shift);
void pi0_linear_rows(const struct pi0_linear *linear, const uint8_t *tokens, const float *token_scale, int64_t rows,
                     float *out);

static int drawn(void) { return rand() % 255 - 127; }

static int wrong_products(int rows, int depth, int width) {
    const int64_t panels = (width + PANEL - 1) / PANEL, stride = row_bytes(depth);
    int8_t *weight = malloc((size_t)(width * depth)), *packed = malloc((size_t)(panels * PANEL * stride));
    uint8_t *tokens = calloc((size_t)(rows * stride), 1);
    int32_t *shift = malloc((size_t)(panels * PANEL) * 4);
    float *scale = malloc((size_t)(panels * PANEL) * 4), *token_scale = malloc((size_t)rows * 4);
    float *out = malloc((size_t)(rows * width) * 4);
    for (int i = 0; i < width * depth; i++)
        weight[i] = (int8_t)drawn();
    for (int i = 0; i < panels * PANEL; i++)
        scale[i] = 1.0f;
    for (int row = 0; row < rows; row++) {
        token_scale[row] = 1.0f;
        for (int k = 0; k < depth; k++)
            tokens[row * stride + k] = (uint8_t)(drawn() + BYTE_SHIFT);
    }
    pi0_pack_weight(weight, width, depth, packed, shift);
    const struct pi0_linear linear = {packed, scale, shift, NULL, depth, width};
    pi0_linear_rows(&linear, tokens, token_scale, rows, out);
    int wrong = 0;
    for (int row = 0; row < rows; row++)
        for (int n = 0; n < width; n++) {
            int32_t sum = 0;
            for (int k = 0; k < depth; k++)
                sum += (tokens[row * stride + k] - BYTE_SHIFT) * weight[n * depth + k];
            wrong += out[row * width + n] != (float)sum;
        }
    return wrong;
}

static int wrong_attention(int keys, int head_dim) {
    float q[QUERIES][80], k[200][80], v[200][80], out[QUERIES][80], scale[QUERIES], copy[80];
    const int64_t bytes = pi0_cache_bytes(keys, head_dim);
    const struct pi0_cache cache = {malloc((size_t)bytes), malloc((size_t)bytes), keys, head_dim};
    uint8_t *queries = malloc((size_t)(QUERIES * row_bytes(head_dim)));
    struct pi0_queries block = {queries, scale, QUERIES, keys, {NULL}};
    for (int i = 0; i < keys; i++) {
        for (int d = 0; d < head_dim; d++)
            k[i][d] = copy[d] = (float)drawn() / 64, v[i][d] = (float)drawn() / 64;
        pi0_store_key(&cache, i, copy);
        memcpy(copy, v[i], sizeof copy);
        pi0_store_value(&cache, i, copy);
    }
    for (int i = 0; i < QUERIES; i++) {
        for (int d = 0; d < head_dim; d++)
            q[i][d] = copy[d] = (float)drawn() / 64;
        pi0_store_query(copy, head_dim, queries + i * row_bytes(head_dim), scale + i);
        block.out[i] = out[i];
    }
    pi0_attend(&cache, &block, malloc((size_t)pi0_attention_scratch(keys)));
    int wrong = 0;
    for (int i = 0; i < QUERIES; i++) {
        double scores[200], sum = 0, largest = -1e300;
        for (int j = 0; j < keys; j++) {
            scores[j] = 0;
            for (int d = 0; d < head_dim; d++)
                scores[j] += (double)q[i][d] * k[j][d] / sqrt(head_dim);
            largest = scores[j] > largest ? scores[j] : largest;
        }
        for (int j = 0; j < keys; j++)
            sum += scores[j] = exp(scores[j] - largest);
        for (int d = 0; d < head_dim; d++) {
            double expected = 0;
            for (int j = 0; j < keys; j++)
                expected += scores[j] / sum * v[j][d];
            wrong += !(fabs(expected - out[i][d]) < 0.08);
        }
    }
    return wrong;
}

int main(void) {
    const int levels[] = {PORTABLE, pi0_best_level()};
    for (int i = 0; i < 2; i++) {
        pi0_use_level(levels[i]);
        const int products = wrong_products(7, 131, 75) + wrong_products(1, 4, 1) + wrong_products(13, 2050, 33);
        printf("level %d: %d wrong products, %d wrong in attention\n", levels[i], products,
               wrong_attention(77, 72) + wrong_attention(150, 32));
    }
    return 0;
}

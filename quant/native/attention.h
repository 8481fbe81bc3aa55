/* Queries, keys and values as the attention reads them (heads.c), and the attention over them (attention.c). */

#ifndef PI0_ATTENTION_H
#define PI0_ATTENTION_H

#include "native.h"

/* Keys and values of one head in INT8, each token with a scale of its own. Keys lie in panels of 32 keys, values in
   panels of 32 dimensions; behind them lie numbers of each token. `capacity` is how many keys there is room for. */
struct pi0_cache {
    void *keys, *values; /* `pi0_cache_bytes` each */
    int64_t capacity, head_dim;
};

INLINED int64_t pi0_rounded_up(int64_t x, int64_t unit) { return (x + unit - 1) / unit * unit; }

/* Groups of 4 keys that the panels of the values have room for. */
INLINED int64_t pi0_value_groups(const struct pi0_cache *cache) {
    return pi0_rounded_up(cache->capacity, TILE) / GROUP;
}

/* Numbers of the tokens, behind the panels: [capacity rounded up to TILE] each. */
struct pi0_key_numbers {
    float *scale;
    int32_t *shift; /* 128 times the sum of the key: queries are unsigned */
};
struct pi0_value_numbers {
    float *logarithm, *inverse; /* of the scale: to base 2, and 1 / scale */
};
struct pi0_key_numbers pi0_key_numbers(const struct pi0_cache *cache);
struct pi0_value_numbers pi0_value_numbers(const struct pi0_cache *cache);

/* By how much the sum of the products of a query and a key is larger than before they were stored. */
int64_t pi0_hadamard_size(int64_t head_dim);

int64_t pi0_cache_bytes(int64_t capacity, int64_t head_dim); /* of the keys, and the same again of the values */

/* All three leave other numbers in what they store; a scale is NaN where a number is not finite. */
void pi0_store_key(const struct pi0_cache *cache, int64_t place, float *key);
void pi0_store_value(const struct pi0_cache *cache, int64_t place, float *value);
void pi0_store_query(float *query, int64_t head_dim, uint8_t *bytes, float *scale);

/* A block of queries of one head: `rows` at most QUERIES. */
enum { BLOCK = 30, QUERIES = BLOCK - 1 };
struct pi0_queries {
    const uint8_t *queries; /* [rows, row_bytes(head_dim)] */
    const float *scale;     /* [rows] */
    int64_t rows, keys;
    float *out[QUERIES]; /* float32 [head_dim] each */
};

int64_t pi0_attention_scratch(int64_t keys); /* bytes that one thread needs */
void pi0_attend(const struct pi0_cache *cache, const struct pi0_queries *block, void *scratch);

#endif

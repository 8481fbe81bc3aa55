/* Keys and values of one layer as the attention reads them, and the attention over them: see attention.c. */

#ifndef PI0_ATTENTION_H
#define PI0_ATTENTION_H

#include "native.h"

/* Keys and values of one head in INT8, each token with a scale of its own. Keys lie in panels of 32 keys, values in panels
   of 32 dimensions; behind them lie numbers of each token. `capacity` is how many keys there is room for. */
struct pi0_cache {
    void *keys, *values; /* `pi0_cache_bytes` each */
    int64_t capacity, head_dim;
};

int64_t pi0_cache_bytes(int64_t capacity, int64_t head_dim); /* of the keys, and the same again of the values */
void pi0_store_key(const struct pi0_cache *cache, int64_t place, float *key); /* which it changes */
void pi0_store_value(const struct pi0_cache *cache, int64_t place, const float *value);

/* A block of queries of one head: `rows` at most QUERIES. */
enum { BLOCK = 30, QUERIES = BLOCK - 1 };
struct pi0_queries {
    const uint8_t *queries; /* [rows, row_bytes(head_dim)] */
    const float *scale;     /* [rows] */
    int64_t rows, keys;
    float *out[QUERIES]; /* float32 [head_dim] each */
};

/* One query, which it changes, in the bytes of a token; its scale is NaN where a number of it is not finite. */
void pi0_store_query(float *query, int64_t head_dim, uint8_t *bytes, float *scale);
int64_t pi0_attention_scratch(int64_t keys); /* bytes that one thread needs */
void pi0_attend(const struct pi0_cache *cache, const struct pi0_queries *block, void *scratch);

#endif

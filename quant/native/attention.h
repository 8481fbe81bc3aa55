/* Keys and values of one layer as the attention reads them, and the attention over them: see attention.c. */

#ifndef PI0_ATTENTION_H
#define PI0_ATTENTION_H

#include "native.h"

/* Keys and values of one head: bfloat16 in pairs, or float32, by the level in use. Keys lie in panels of 32 keys,
   values in panels of 32 dimensions. `capacity` is how many keys there is room for. */
struct pi0_cache {
    void *keys, *values;
    int64_t capacity, head_dim;
};

int64_t pi0_cache_bytes(int64_t capacity, int64_t head_dim); /* of the keys, and the same again of the values */
void pi0_store_key(const struct pi0_cache *cache, int64_t place, const float *key);
void pi0_store_value(const struct pi0_cache *cache, int64_t place, const float *value);
/* After the last of `keys` values: what lies beside it in a pair is made 0, so that it adds nothing, not even a NaN. */
void pi0_end_values(const struct pi0_cache *cache, int64_t keys);

/* A block of queries of one head: `rows` at most BLOCK, each `query_stride` numbers of the cache's kind apart. */
enum { BLOCK = 24 };
struct pi0_queries {
    const void *queries;
    int64_t query_stride, rows, keys;
    float *out[BLOCK]; /* float32 [head_dim] each */
};

int64_t pi0_query_numbers(int64_t head_dim);  /* of one query, padded */
void pi0_store_query(void *queries, int64_t place, const float *query, int64_t head_dim);
int64_t pi0_attention_scratch(int64_t keys);  /* bytes that one thread needs */
void pi0_attend(const struct pi0_cache *cache, const struct pi0_queries *block, void *scratch);

#endif

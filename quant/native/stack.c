/* A stack of transformer layers over one block of tokens, in one call and one team of threads: the vision tower, the
   prefix, or one pass of the action expert.

       x ─► norm, quantize ─► q k v ─► rotate, store ─► attention ─► quantize ─► o ─► + x
         ─► norm, quantize ─► gate, up, GeGLU ─► quantize ─► down ─► + x

   Between two products there is one pass over each row, divided among the threads; the products divide their columns.
   What a row becomes does not depend on the threads, nor on the rows beside it. */

#include "attention.h"
#include <stdlib.h>

#ifdef _OPENMP
#include <omp.h>
#endif

#define WORTH_A_TEAM (1 << 25) /* multiplications of one layer below which waiting for each other costs more */

/* One layer. A last layer without `o` ends with its keys and values. Biases of the norms make them LayerNorms; without
   an `up` the MLP is down(gelu(gate)). Modulations are [.., 3 * width]: scale, shift and gate of an adaptive norm. */
struct pi0_layer {
    struct pi0_linear q, k, v, o, gate, up, down;
    const float *attention_norm, *attention_norm_bias, *mlp_norm, *mlp_norm_bias;
    const float *attention_modulation, *mlp_modulation;
    void *keys, *values;            /* caches [batch, kv_heads] */
    float *own_keys, *own_values;   /* float32 [batch, tokens, kv_heads, head_dim] of these tokens, or NULL */
};

struct pi0_stack {
    const struct pi0_layer *layers;
    int64_t count, width, heads, kv_heads, head_dim;
    float *x; /* [batch, tokens, width]; becomes the output */
    int64_t batch, tokens;
    const float *cosine, *sine; /* [batch or 1, tokens, head_dim / 2], or NULL */
    int64_t rotary_batch_stride;
    const int64_t *seen, *own; /* [batch]: keys in the cache already, and valid tokens of this block */
    int64_t capacity;          /* of the caches, in keys */
    int64_t modulation_batch_stride, modulation_token_stride;
};

/* Memory of one call. */
struct workspace {
    uint8_t *tokens;  /* quantized, [rows, widest input] */
    float *scale;     /* [rows] */
    float *projected; /* q k v, [rows, (heads + 2 kv_heads) * head_dim] */
    uint8_t *queries; /* [batch, kv_heads, tokens, heads / kv_heads, row_bytes(head_dim)], quantized */
    float *query_scale; /* of each of them */
    float *attended;  /* [rows, heads * head_dim] */
    uint32_t *hidden; /* [rows, widest MLP in whole panels], pairs of bfloat16 */
    uint32_t (*largest)[MAXIMA]; /* [threads][rows], magnitudes of the hidden values */
    char *scratch;    /* per thread */
    int64_t scratch_bytes;
    int finite;
};

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t whole_panels(int64_t columns) { return (columns + PANEL - 1) / PANEL * PANEL; }

static int64_t rows_of(const struct pi0_stack *s) { return s->batch * s->tokens; }

static int64_t thread_number(void) {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

static int64_t thread_count(void) {
#ifdef _OPENMP
    return omp_get_num_threads();
#else
    return 1;
#endif
}

static int64_t most_threads(void) {
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

static void *piece(char *memory, int64_t *used, int64_t bytes) {
    void *own = memory ? memory + *used : NULL;
    *used += (bytes + 63) / 64 * 64;
    return own;
}

/* Divides `memory` and returns how much is needed; with NULL it only counts. */
static int64_t divide(const struct pi0_stack *s, struct workspace *w, char *memory, int64_t threads) {
    const int64_t rows = rows_of(s), joined = s->heads * s->head_dim;
    int64_t hidden = 0, used = 0, keys = 0;
    for (int64_t i = 0; i < s->count; i++)
        hidden = larger(hidden, s->layers[i].gate.width);
    for (int64_t b = 0; b < s->batch; b++)
        keys = larger(keys, s->seen[b] + s->own[b]);
    w->tokens = piece(memory, &used, rows * row_bytes(larger(larger(s->width, joined), hidden)));
    w->scale = piece(memory, &used, rows * 4);
    w->projected = piece(memory, &used, rows * (s->heads + 2 * s->kv_heads) * s->head_dim * 4);
    w->queries = piece(memory, &used, rows * s->heads * row_bytes(s->head_dim));
    w->query_scale = piece(memory, &used, rows * s->heads * 4);
    w->attended = piece(memory, &used, rows * joined * 4);
    w->hidden = piece(memory, &used, rows * whole_panels(hidden) * 2);
    w->largest = piece(memory, &used, threads * rows * (int64_t)sizeof *w->largest);
    w->scratch_bytes = (larger(pi0_attention_scratch(keys), s->width * 4) + 63) / 64 * 64;
    w->scratch = piece(memory, &used, w->scratch_bytes * threads);
    return used;
}

static void not_finite(struct workspace *w) {
#pragma omp atomic write
    w->finite = 0;
}

static const float *modulation_of(const struct pi0_stack *s, const float *modulation, int64_t row) {
    return modulation + row / s->tokens * s->modulation_batch_stride + row % s->tokens * s->modulation_token_stride;
}

static void norm_and_quantize(const struct pi0_stack *s, struct workspace *w, const float *weight, const float *bias,
                              const float *modulation) {
    float *normed = (void *)(w->scratch + thread_number() * w->scratch_bytes);
#pragma omp for
    for (int64_t row = 0; row < rows_of(s); row++) {
        const float *x = s->x + row * s->width;
        const float *own = modulation ? modulation_of(s, modulation, row) : NULL;
        if (bias)
            pi0_layer_norm_row(x, s->width, weight, bias, normed);
        else
            pi0_rms_norm_row(x, s->width, weight, own, own ? own + s->width : NULL, normed);
        if (!pi0_quantize_row(normed, s->width, w->tokens + row * row_bytes(s->width), w->scale + row))
            not_finite(w);
    }
}

static void quantize(struct workspace *w, const float *x, int64_t rows, int64_t columns) {
#pragma omp for
    for (int64_t row = 0; row < rows; row++)
        if (!pi0_quantize_row(x + row * columns, columns, w->tokens + row * row_bytes(columns), w->scale + row))
            not_finite(w);
}

/* The same for the hidden values of an MLP, whose largest magnitudes its threads have kept. */
static void quantize_hidden(struct workspace *w, int64_t rows, int64_t columns) {
    const int64_t threads = thread_count();
#pragma omp for
    for (int64_t row = 0; row < rows; row++) {
        uint32_t largest = 0;
        for (int64_t thread = 0; thread < threads; thread++)
            for (int i = 0; i < MAXIMA; i++) {
                const uint32_t own = w->largest[thread * rows + row][i];
                largest = own > largest ? own : largest;
            }
        if (!pi0_quantize_hidden(w->hidden + row * whole_panels(columns) / 2, columns, largest,
                                 w->tokens + row * row_bytes(columns), w->scale + row))
            not_finite(w);
    }
}

static void multiply(const struct pi0_stack *s, const struct workspace *w, enum pi0_result result, float *out,
                     int64_t out_stride, const float *modulation, int count, const struct pi0_linear *first,
                     const struct pi0_linear *second, const struct pi0_linear *third) {
    const struct pi0_product product = {
        .result = result,
        .linears = {first, second, third},
        .count = count,
        .tokens = w->tokens,
        .token_scale = w->scale,
        .rows = rows_of(s),
        .out = out,
        .hidden = w->hidden,
        .out_stride = out_stride,
        .large = is_large(rows_of(s), out_stride),
        .largest = result == GELU || result == GEGLU ? w->largest : NULL,
        .gate = modulation ? modulation + 2 * s->width : NULL,
        .gate_tokens = s->tokens,
        .gate_batch_stride = s->modulation_batch_stride,
        .gate_token_stride = s->modulation_token_stride,
    };
    pi0_multiply(&product);
}

static struct pi0_cache cache_of(const struct pi0_stack *s, const struct pi0_layer *layer, int64_t head) {
    const int64_t offset = head * pi0_cache_bytes(s->capacity, s->head_dim);
    const struct pi0_cache cache = {(char *)layer->keys + offset, (char *)layer->values + offset, s->capacity,
                                    s->head_dim};
    return cache;
}

/* Rotary positions: the first half of the head with the second one. */
EACH_PROCESSOR
static void rotate(float *restrict x, const float *restrict cosine, const float *restrict sine, int64_t half) {
    float *restrict second = x + half;
    for (int64_t d = 0; d < half; d++) {
        const float a = x[d], b = second[d];
        x[d] = a * cosine[d] - b * sine[d];
        second[d] = b * cosine[d] + a * sine[d];
    }
}

/* q, k and v of every row are rotated and stored where the attention reads them. */
static void store_projected(const struct pi0_stack *s, const struct pi0_layer *layer, struct workspace *w, int queries) {
    const int64_t head_dim = s->head_dim, group = s->heads / s->kv_heads, half = head_dim / 2;
    const int64_t width = ((queries ? s->heads : 0) + 2 * s->kv_heads) * head_dim;
#pragma omp for
    for (int64_t row = 0; row < rows_of(s); row++) {
        const int64_t b = row / s->tokens, token = row % s->tokens;
        const float *cosine = s->cosine ? s->cosine + b * s->rotary_batch_stride + token * half : NULL;
        const float *sine = s->cosine ? s->sine + b * s->rotary_batch_stride + token * half : NULL;
        float *x = w->projected + row * width;
        for (int64_t head = 0; queries && head < s->heads; head++, x += head_dim) {
            if (cosine)
                rotate(x, cosine, sine, half);
            const int64_t place = ((b * s->kv_heads + head / group) * s->tokens + token) * group + head % group;
            pi0_store_query(x, head_dim, w->queries + place * row_bytes(head_dim), w->query_scale + place);
        }
        for (int64_t head = 0; head < s->kv_heads; head++, x += head_dim) {
            const struct pi0_cache cache = cache_of(s, layer, b * s->kv_heads + head);
            const int64_t place = s->seen[b] + token, out = (row * s->kv_heads + head) * head_dim;
            float *value = x + s->kv_heads * head_dim;
            if (cosine)
                rotate(x, cosine, sine, half);
            if (layer->own_keys) {
                memcpy(layer->own_keys + out, x, (size_t)head_dim * sizeof *x);
                memcpy(layer->own_values + out, value, (size_t)head_dim * sizeof *x);
            }
            if (layer->keys && token < s->own[b]) {
                pi0_store_key(&cache, place, x);
                pi0_store_value(&cache, place, value);
            }
        }
    }
}

static void attend(const struct pi0_stack *s, const struct pi0_layer *layer, struct workspace *w) {
    const int64_t group = s->heads / s->kv_heads, queries = s->tokens * group, joined = s->heads * s->head_dim;
    const int64_t blocks = (queries + QUERIES - 1) / QUERIES, bytes = row_bytes(s->head_dim);
    void *scratch = w->scratch + thread_number() * w->scratch_bytes;
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < s->batch * s->kv_heads * blocks; item++) {
        const int64_t head = item / blocks, first = item % blocks * queries / blocks, b = head / s->kv_heads;
        const struct pi0_cache cache = cache_of(s, layer, head);
        struct pi0_queries block = {.queries = w->queries + (head * queries + first) * bytes,
                                    .scale = w->query_scale + head * queries + first,
                                    .rows = (item % blocks + 1) * queries / blocks - first,
                                    .keys = s->seen[b] + s->own[b]};
        for (int64_t i = 0; i < block.rows; i++) {
            const int64_t token = (first + i) / group, own = head % s->kv_heads * group + (first + i) % group;
            block.out[i] = w->attended + (b * s->tokens + token) * joined + own * s->head_dim;
        }
        pi0_attend(&cache, &block, scratch);
    }
}

static void run_layer(const struct pi0_stack *s, const struct pi0_layer *layer, struct workspace *w) {
    const int64_t rows = rows_of(s), joined = s->heads * s->head_dim, kept = s->kv_heads * s->head_dim;
    norm_and_quantize(s, w, layer->attention_norm, layer->attention_norm_bias, layer->attention_modulation);
    if (!layer->o.panels) {
        multiply(s, w, STORE, w->projected, 2 * kept, NULL, 2, &layer->k, &layer->v, NULL);
        store_projected(s, layer, w, 0);
        return;
    }
    multiply(s, w, STORE, w->projected, joined + 2 * kept, NULL, 3, &layer->q, &layer->k, &layer->v);
    store_projected(s, layer, w, 1);
    attend(s, layer, w);
    quantize(w, w->attended, rows, joined);
    multiply(s, w, ADD, s->x, s->width, layer->attention_modulation, 1, &layer->o, NULL, NULL);
    norm_and_quantize(s, w, layer->mlp_norm, layer->mlp_norm_bias, layer->mlp_modulation);
    const enum pi0_result result = layer->up.panels ? GEGLU : GELU;
    const int64_t hidden = whole_panels(layer->gate.width);
    multiply(s, w, result, NULL, hidden, NULL, result == GEGLU ? 2 : 1, &layer->gate, &layer->up, NULL);
    quantize_hidden(w, rows, layer->gate.width);
    multiply(s, w, ADD, s->x, s->width, layer->mlp_modulation, 1, &layer->down, NULL, NULL);
}

/* Runs the layers. Returns 1; 0 where a value to be quantized is NaN or infinite; -1 where there is no memory. */
int pi0_run_stack(const struct pi0_stack *s) {
    struct workspace w = {.finite = 1};
    const int64_t threads = most_threads();
    char *memory = pi0_borrow(divide(s, &w, NULL, threads));
    if (!memory)
        return -1;
    divide(s, &w, memory, threads);
    const struct pi0_layer *layer = s->layers;
    const int64_t weights = s->width * (2 * s->heads * s->head_dim + 3 * layer->gate.width);
#pragma omp parallel if (rows_of(s) * weights > WORTH_A_TEAM)
    for (int64_t i = 0; i < s->count; i++) {
        int finite;
#pragma omp atomic read
        finite = w.finite;
#pragma omp barrier
        if (finite) /* the same in all threads: nobody writes before the barrier */
            run_layer(s, s->layers + i, &w);
    }
    pi0_give_back(memory);
    return w.finite;
}

/* Stores keys and values float32 [batch, tokens, kv_heads, head_dim] into caches: token t of row b at `places` [b, t], at
   t where that is NULL, nowhere where it is negative. Returns 1, or -1 where there is no memory. */
int pi0_fill_caches(const float *keys, const float *values, const int64_t *places, int64_t batch, int64_t tokens,
                    int64_t kv_heads, int64_t head_dim, int64_t capacity, void *key_cache, void *value_cache) {
    const int64_t bytes = pi0_cache_bytes(capacity, head_dim);
    float *copies = pi0_allocate(most_threads() * 2 * head_dim * (int64_t)sizeof *copies);
    if (!copies)
        return -1;
#pragma omp parallel for if (batch * tokens * kv_heads * head_dim > 65536)
    for (int64_t row = 0; row < batch * tokens; row++) {
        const int64_t place = places ? places[row] : row % tokens;
        float *key = copies + thread_number() * 2 * head_dim, *value = key + head_dim;
        for (int64_t head = 0; place >= 0 && head < kv_heads; head++) {
            const int64_t offset = (row / tokens * kv_heads + head) * bytes;
            const int64_t index = (row * kv_heads + head) * head_dim;
            const struct pi0_cache cache = {(char *)key_cache + offset, (char *)value_cache + offset, capacity,
                                            head_dim};
            memcpy(key, keys + index, (size_t)head_dim * sizeof *key);
            memcpy(value, values + index, (size_t)head_dim * sizeof *value);
            pi0_store_key(&cache, place, key);
            pi0_store_value(&cache, place, value);
        }
    }
    free(copies);
    return 1;
}

int64_t pi0_linear_bytes(void) { return (int64_t)sizeof(struct pi0_linear); }
int64_t pi0_layer_bytes(void) { return (int64_t)sizeof(struct pi0_layer); }
int64_t pi0_stack_bytes(void) { return (int64_t)sizeof(struct pi0_stack); }

/* The INT8 product of a block of tokens with packed weights. Sums are exact; finish.c says what becomes of them. */

#include "product.h"

#if X86
#include <immintrin.h>
#endif

#ifdef _OPENMP
#include <omp.h>
#endif

enum {
    DEPTH = 4608, /* most bytes along K in one go: two panels of them are 288 KB and stay in the second cache */
    CHUNK = 960,  /* rows whose sums are kept when K is deeper than that */
};

static int64_t panels_of(const struct pi0_linear *linear) { return (linear->width + PANEL - 1) / PANEL; }

static int64_t panel_count(const struct pi0_product *p) {
    int64_t count = 0;
    for (int i = 0; i < p->count; i++)
        count += panels_of(p->linears[i]);
    return count;
}

static struct place place_of(const struct pi0_product *p, int64_t panel) {
    struct place place = {NULL, 0, 0, 0};
    if (p->result == GEGLU) {
        place.linear = p->linears[panel & 1];
        panel /= 2;
    } else {
        int i = 0;
        for (; panel >= panels_of(p->linears[i]); i++) {
            panel -= panels_of(p->linears[i]);
            place.column += p->linears[i]->width;
        }
        place.linear = p->linears[i];
    }
    place.channel = panel * PANEL;
    place.column += place.channel;
    const int64_t left = place.linear->width - place.channel;
    place.width = (int)(left < PANEL ? left : PANEL);
    return place;
}

/* Asks for the cache lines that a block is added to, before its sums are computed. */
static void ask_for_results(const struct pi0_product *p, int64_t first, int rows, const struct place *place, int count) {
    for (int row = 0; row < rows; row++)
        for (int i = 0; i < count; i++)
            for (int c = 0; c < place[i].width; c += LINE / (int)sizeof(float))
                __builtin_prefetch(p->out + (first + row) * p->out_stride + place[i].column + c, 1);
}

EACH_PROCESSOR
static void add_sums(int32_t (*restrict sums)[TILE], int32_t (*restrict added)[TILE], int rows) {
    for (int row = 0; row < rows; row++)
        for (int c = 0; c < TILE; c++)
            sums[row][c] += added[row][c];
}

static const int8_t *weights_of(const struct place *place, int64_t groups) {
    return place->linear->panels + place->channel / PANEL * groups * PANEL * GROUP;
}

/* The weights of panel `panel` from group `begin` on; NULL behind the last panel. */
static const int8_t *panel_at(const struct pi0_product *p, int64_t panel, int64_t panels, int64_t groups, int64_t begin) {
    if (panel >= panels)
        return NULL;
    const struct place place = place_of(p, panel);
    return weights_of(&place, groups) + begin * PANEL * GROUP;
}

/* `pi0_tile_512` where there is no AVX-512. */
static void multiply_block(const struct pi0_product *p, int64_t first, int rows, const struct place *place, int count,
                           const struct pi0_tile *tile) {
    int32_t own[ROWS][TILE] __attribute__((aligned(LINE)));
    int32_t (*sums)[TILE] = tile->begins && !tile->ends ? tile->kept : own;
    pi0_dot_tile(tile->tokens, tile->stride, rows, tile->weights[0], tile->weights[1], tile->groups, sums);
    if (!tile->begins)
        add_sums(tile->ends ? own : tile->kept, tile->ends ? tile->kept : own, rows);
    if (tile->ends)
        pi0_finish_block(p, first, rows, place, count, own, tile->largest);
}

/* Rows `from` to `to` of one tile, with the weights of up to DEPTH bytes at a time; `next` is the tile after it. */
static void multiply_tile(const struct pi0_product *p, int64_t tile, int64_t next, int64_t from, int64_t to,
                          int64_t panels, int32_t (*kept)[TILE], uint32_t (*largest)[MAXIMA]) {
    const int count = panels - 2 * tile > 1 ? 2 : 1;
    struct place place[2] = {place_of(p, 2 * tile), {NULL, 0, 0, 0}};
    if (count == 2)
        place[1] = place_of(p, 2 * tile + 1);
    const int64_t stride = row_bytes(p->linears[0]->depth), groups = stride / GROUP;
    const int8_t *weights[2] = {NULL, NULL};
    for (int i = 0; i < count; i++)
        weights[i] = weights_of(place + i, groups);
    /* All blocks have as many rows, some of them one more. */
    const int64_t blocks = (to - from + ROWS - 1) / ROWS, shortest = (to - from) / blocks, longer = (to - from) % blocks;
    const int64_t pieces = (groups + DEPTH / GROUP - 1) / (DEPTH / GROUP), longest = (groups + pieces - 1) / pieces;
    for (int64_t begin = 0; begin < groups; begin += longest) {
        const int64_t here = groups - begin < longest ? groups - begin : longest;
        const int64_t next_begin = begin + here < groups ? begin + here : 0, next_tile = next_begin ? tile : next;
        for (int64_t block = 0; block < blocks; block++) {
            const int64_t row = from + block * shortest + (block < longer ? block : longer);
            const int rows = (int)shortest + (block < longer);
            const int64_t offset = begin * PANEL * GROUP;
            struct pi0_tile work = {
                .tokens = p->tokens + row * stride + begin * GROUP,
                .stride = stride,
                .weights = {weights[0] + offset, weights[1] ? weights[1] + offset : NULL},
                .groups = here,
                .begins = begin == 0,
                .ends = begin + here == groups,
                .kept = kept + (row - from),
                .largest = largest ? largest + row : NULL,
            };
            /* A panel of one group is two cache lines: the first four blocks ask for the two panels of what comes next.
               The expert has few rows, and waits for memory at each tile otherwise. The others ask for the tokens
               behind. */
            if (block < 4) {
                const int8_t *weights_ahead = panel_at(p, 2 * next_tile + block / 2, panels, groups, next_begin);
                work.ahead = weights_ahead ? weights_ahead + block % 2 * here * LINE : NULL;
                work.step = LINE;
            } else if (here == groups) {
                work.ahead = work.tokens + rows * stride;
                work.step = rows * GROUP;
            }
            if (work.ends && p->result == ADD)
                ask_for_results(p, row, rows, place, count);
#if X86
            if (pi0_level() >= AVX512_VNNI) {
                pi0_tile_512(p, row, rows, place, count, &work);
                continue;
            }
#endif
            multiply_block(p, row, rows, place, count, &work);
        }
    }
#if X86
    if (p->large)
        _mm_sfence(); /* what passed the caches is there for the other threads before they go on */
#endif
}

/* Whether more pieces are worth their cost, so that no thread waits long for the last one: `own` pieces for each thread,
   and blocks of `rows` rows with one chunk more. A few pieces are wanted at any cost; many only where a chunk still has
   rows enough that bringing the weights into another cache counts for little. */
static int wants_another_chunk(int64_t own, int64_t rows) {
    return (own < 4 && rows >= 4 * ROWS) || (own < 32 && rows >= 32 * ROWS);
}

void pi0_multiply(const struct pi0_product *p) {
    const int64_t panels = panel_count(p), tiles = (panels + 1) / 2;
    int64_t chunks = (p->rows + CHUNK - 1) / CHUNK;
#ifdef _OPENMP
    const int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
#else
    const int64_t threads = 1, thread = 0;
#endif
    uint32_t(*largest)[MAXIMA] = p->largest ? p->largest + thread * p->rows : NULL;
    if (largest)
        memset(largest, 0, (size_t)p->rows * sizeof *largest);
    while (threads > 1 && wants_another_chunk(tiles * chunks / threads, p->rows / (chunks + 1)))
        chunks++;
    int32_t kept[CHUNK][TILE] __attribute__((aligned(LINE)));
#pragma omp for schedule(dynamic)
    for (int64_t piece = 0; piece < tiles * chunks; piece++) {
        const int64_t chunk = piece % chunks;
        multiply_tile(p, piece / chunks, (piece + threads) / chunks, p->rows * chunk / chunks,
                      p->rows * (chunk + 1) / chunks, panels, kept, largest);
    }
}

/* Copies `depth` bytes of one row into its place of each group of a panel, and returns their sum. */
static int32_t pack_row(const int8_t *row, int64_t depth, int8_t *panel) {
    int32_t sum = 0;
    for (int64_t k = 0; k < depth; k++)
        sum += row[k];
    for (int64_t group = 0; group < depth / GROUP; group++)
        memcpy(panel + group * PANEL * GROUP, row + group * GROUP, GROUP);
    for (int64_t k = depth / GROUP * GROUP; k < depth; k++)
        panel[k / GROUP * PANEL * GROUP + k % GROUP] = row[k];
    return sum;
}

/* Packs weight int8 [width, depth] into `panels` and the `shift` of its channels, both padded with zeros.
 *
 * A panel is written PACKED_DEPTH of its depth at a time, all rows into the same 8 KB: a whole row at a time would bring
 * every line of the panel into the cache once for each of its rows. */
void pi0_pack_weight(const int8_t *weight, int64_t width, int64_t depth, int8_t *panels, int32_t *shift) {
    enum { PACKED_DEPTH = 256 };
    const int64_t groups = row_bytes(depth) / GROUP, count = (width + PANEL - 1) / PANEL;
    pi0_ask_for_large_pages(panels, count * groups * PANEL * GROUP);
#pragma omp parallel for if (width * depth > 65536)
    for (int64_t panel = 0; panel < count; panel++) {
        int8_t *own = panels + panel * groups * PANEL * GROUP;
        const int64_t channels = width - panel * PANEL < PANEL ? width - panel * PANEL : PANEL;
        int32_t sums[PANEL] = {0};
        if (depth % GROUP || channels < PANEL)
            memset(own, 0, (size_t)(groups * PANEL * GROUP));
        for (int64_t k = 0; k < depth; k += PACKED_DEPTH) {
            const int64_t packed = depth - k < PACKED_DEPTH ? depth - k : PACKED_DEPTH;
            for (int64_t c = 0; c < channels; c++)
                sums[c] += pack_row(weight + (panel * PANEL + c) * depth + k, packed, own + (k * PANEL + c * GROUP));
        }
        for (int64_t c = 0; c < PANEL; c++)
            shift[panel * PANEL + c] = BYTE_SHIFT * sums[c];
    }
}

/* out [rows, width] = tokens [rows, row_bytes(depth)] times one linear, its scales and its bias: a product alone. */
void pi0_linear_rows(const struct pi0_linear *linear, const uint8_t *tokens, const float *token_scale, int64_t rows,
                     float *out) {
    const struct pi0_product product = {.result = STORE,
                                        .linears = {linear},
                                        .count = 1,
                                        .tokens = tokens,
                                        .token_scale = token_scale,
                                        .rows = rows,
                                        .out = out,
                                        .out_stride = linear->width,
                                        .large = is_large(rows, linear->width)};
#pragma omp parallel if (rows * linear->width * linear->depth > (1 << 22))
    pi0_multiply(&product);
}

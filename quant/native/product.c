/* The INT8 product of a block of tokens with packed weights, and what becomes of it while it is in the cache: it is
   stored, added to the residual, or goes through GELU or GeGLU. Sums are exact; the order of the float operations
   behind them is that of `QuantizedLinear`: channel scale, token scale, bias. */

#include "native.h"

#ifdef _OPENMP
#include <omp.h>
#endif

enum {
    DEPTH = 4096, /* bytes along K in one go: two panels of them are 256 KB and stay in the second cache */
    CHUNK = 960,   /* rows whose sums are kept when K is deeper than that */
};

/* Where the two panels of tile `tile` are: linear and first column of each. A GeGLU takes 32 channels of its gate and
   the same of its up; the others take the columns of their linears side by side. */
struct place {
    const struct pi0_linear *linear;
    int64_t channel, column;
    int width;
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

EACH_PROCESSOR
static void scale_sums(const int32_t *restrict sums, const float *restrict scale, const int32_t *restrict shift,
                       const float *restrict bias, float token_scale, float *restrict out) {
    if (bias)
        for (int c = 0; c < PANEL; c++)
            out[c] = (float)(sums[c] - shift[c]) * scale[c] * token_scale + bias[c];
    else
        for (int c = 0; c < PANEL; c++)
            out[c] = (float)(sums[c] - shift[c]) * scale[c] * token_scale;
}

EACH_PROCESSOR
static void gelu_panel(float *restrict x, const float *restrict factor) {
    if (factor)
        for (int c = 0; c < PANEL; c++)
            x[c] = gelu(x[c]) * factor[c];
    else
        for (int c = 0; c < PANEL; c++)
            x[c] = gelu(x[c]);
}

EACH_PROCESSOR
static void add_panel(float *restrict out, const float *restrict x, const float *restrict gate, int width) {
    if (gate)
        for (int c = 0; c < width; c++)
            out[c] += gate[c] * x[c];
    else
        for (int c = 0; c < width; c++)
            out[c] += x[c];
}

static void finish_panel(const struct pi0_product *p, int64_t row, const struct place *place, float *values) {
    float *out = p->out + row * p->out_stride + place->column;
    const float *gate = NULL;
    if (p->result == GELU)
        gelu_panel(values, NULL);
    if (p->result == ADD) {
        if (p->gate)
            gate = p->gate + row / p->gate_tokens * p->gate_batch_stride + row % p->gate_tokens * p->gate_token_stride +
                   place->column;
        add_panel(out, values, gate, place->width);
    } else {
        memcpy(out, values, (size_t)place->width * sizeof *out);
    }
}

static void finish_row(const struct pi0_product *p, int64_t row, const struct place place[2], int panels,
                       const int32_t *sums) {
    float values[2][PANEL];
    for (int i = 0; i < panels; i++) {
        const struct pi0_linear *linear = place[i].linear;
        const int64_t c = place[i].channel;
        scale_sums(sums + i * PANEL, linear->scale + c, linear->shift + c, linear->bias ? linear->bias + c : NULL,
                   p->token_scale[row], values[i]);
    }
    if (p->result == GEGLU) {
        gelu_panel(values[0], values[1]);
        finish_panel(p, row, place, values[0]);
        return;
    }
    for (int i = 0; i < panels; i++)
        finish_panel(p, row, place + i, values[i]);
}

static const int8_t *weights_of(const struct place *place, int64_t groups) {
    return place->linear->panels + place->channel / PANEL * groups * PANEL * GROUP;
}

/* What the block of rows number `block` asks for ahead: a panel of one group is two cache lines, so that the first four
   blocks ask for the two panels of `next`. The expert has few rows, and waits for memory at each tile otherwise. */
static const int8_t *ahead_of(const struct pi0_product *p, int64_t next, int64_t panels, int64_t groups, int64_t block) {
    const int64_t panel = 2 * next + block / 2;
    if (block >= 4 || panel >= panels)
        return NULL;
    const struct place place = place_of(p, panel);
    return weights_of(&place, groups) + block % 2 * groups * LINE;
}

/* Rows `from` to `to` of one tile, with the weights of DEPTH bytes at a time; `next` is the tile after it. */
static void multiply_tile(const struct pi0_product *p, int64_t tile, int64_t next, int64_t from, int64_t to,
                          int64_t panels, int32_t (*kept)[TILE]) {
    const int count = panels - 2 * tile > 1 ? 2 : 1;
    struct place place[2] = {place_of(p, 2 * tile), {NULL, 0, 0, 0}};
    if (count == 2)
        place[1] = place_of(p, 2 * tile + 1);
    const int64_t stride = row_bytes(p->linears[0]->depth), groups = stride / GROUP;
    const int8_t *weights[2] = {NULL, NULL};
    for (int i = 0; i < count; i++)
        weights[i] = weights_of(place + i, groups);
    const int64_t blocks = (to - from + ROWS - 1) / ROWS;
    for (int64_t begin = 0; begin < groups; begin += DEPTH / GROUP) {
        const int64_t here = groups - begin < DEPTH / GROUP ? groups - begin : DEPTH / GROUP;
        const int last = begin + here == groups;
        for (int64_t block = 0; block < blocks; block++) {
            const int64_t row = from + (to - from) * block / blocks;
            const int rows = (int)(from + (to - from) * (block + 1) / blocks - row);
            int32_t sums[ROWS][TILE];
            const int64_t offset = begin * PANEL * GROUP;
            const int8_t *ahead = here == groups ? ahead_of(p, next, panels, groups, block) : NULL;
            pi0_dot_tile(p->tokens + row * stride + begin * GROUP, stride, rows, weights[0] + offset,
                         weights[1] ? weights[1] + offset : NULL, here, ahead, sums);
            for (int r = 0; r < rows; r++) {
                int32_t *before = kept[row - from + r];
                if (begin)
                    for (int c = 0; c < count * PANEL; c++)
                        sums[r][c] += before[c];
                if (last)
                    finish_row(p, row + r, place, count, sums[r]);
                else
                    memcpy(before, sums[r], sizeof sums[r]);
            }
        }
    }
}

void pi0_multiply(const struct pi0_product *p) {
    const int64_t panels = panel_count(p), tiles = (panels + 1) / 2;
    int64_t chunks = (p->rows + CHUNK - 1) / CHUNK;
#ifdef _OPENMP
    const int64_t threads = omp_get_num_threads();
#else
    const int64_t threads = 1;
#endif
    /* Enough pieces that no thread waits long for the last one, but whole blocks of rows. */
    while (threads > 1 && tiles * chunks < 4 * threads && p->rows / (chunks + 1) >= 4 * ROWS)
        chunks++;
    int32_t kept[CHUNK][TILE];
#pragma omp for schedule(dynamic)
    for (int64_t piece = 0; piece < tiles * chunks; piece++) {
        const int64_t chunk = piece % chunks;
        multiply_tile(p, piece / chunks, piece / chunks + threads, p->rows * chunk / chunks,
                      p->rows * (chunk + 1) / chunks, panels, kept);
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
                                        .out_stride = linear->width};
#pragma omp parallel if (rows * linear->width * linear->depth > (1 << 22))
    pi0_multiply(&product);
}

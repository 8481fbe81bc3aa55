/* What product.c and finish.c share. */

#ifndef PI0_PRODUCT_H
#define PI0_PRODUCT_H

#include "native.h"

/* Where the two panels of a tile are: linear and first column of each. A GeGLU takes 32 channels of its gate and the same
   of its up; the others take the columns of their linears side by side. */
struct place {
    const struct pi0_linear *linear;
    int64_t channel, column;
    int width;
};

/* Rows of tokens and two panels of weights, the second of them NULL or not, for `groups` groups along K. */
struct pi0_tile {
    const uint8_t *tokens;
    int64_t stride;
    const int8_t *weights[2];
    int64_t groups;
    const void *ahead;       /* what will be read next: each group asks for the line of `step` bytes more; or NULL */
    int64_t step;
    int begins, ends;        /* whether these are the first and the last groups of K */
    int32_t (*kept)[TILE];   /* [rows] sums of the groups before, and for those behind */
    uint32_t (*largest)[MAXIMA]; /* [rows], of GELU and GeGLU: see `pi0_product` */
};

/* Rows `first` to `first + rows` of the product in one tile of `count` panels: sums, and at the end of K what becomes of
   them. avx512.c has a form of its own. */
void pi0_tile_512(const struct pi0_product *p, int64_t first, int rows, const struct place *place, int count,
                  const struct pi0_tile *tile);
/* The second half of it elsewhere, in finish.c. */
void pi0_finish_block(const struct pi0_product *p, int64_t first, int rows, const struct place *place, int count,
                      int32_t (*sums)[TILE], uint32_t (*largest)[MAXIMA]);

INLINED const float *pi0_gate_of(const struct pi0_product *p, int64_t row) {
    return p->gate + row / p->gate_tokens * p->gate_batch_stride + row % p->gate_tokens * p->gate_token_stride;
}

#endif

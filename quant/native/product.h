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

/* The sums of rows `first` to `first + rows` of one tile of `count` panels become results, and go to their place.
   `largest` [rows] is NULL or kept up to date for GELU and GeGLU: see `pi0_product`. */
void pi0_finish_block(const struct pi0_product *p, int64_t first, int rows, const struct place *place, int count,
                      int32_t (*sums)[TILE], uint32_t (*largest)[MAXIMA]);

#endif

// Where everything of a matrix product lies: which block computes what, shared memory, fragments, packed weights.
//
// Index arithmetic and nothing else. A product out[m, n] = a[m, k] · weight[n, k]ᵀ is cut into tiles of the output, and
// each tile into steps along k. Fragments are those of load_matrices and multiply_add (device.cuh): a step of both
// matrices is 32 bytes wide, whatever the type of their elements.
#pragma once

#include "device.cuh"

namespace pi0::gemm {

#define PI0_INDEX __host__ __device__ __forceinline__ constexpr

constexpr int chunk_bytes = 16;  // of one asynchronous copy, and of one row of an 8x8 matrix

// Work
//
// The steps of all tiles form one line: tile after tile, rows fastest, so that the blocks that run at the same time share
// columns and read each weight from memory once. The line is cut into one stripe per block. With as many blocks as tiles
// a stripe is a tile; with more, several blocks add up one tile (split-K); with fewer, a block does many in a row.

struct Stripe {
  int begin, end;
};

struct Work {
  int row_tiles, column_tiles, depth;  // depth: steps of one tile

  PI0_INDEX int tiles() const { return row_tiles * column_tiles; }
  PI0_INDEX int64_t steps() const { return static_cast<int64_t>(tiles()) * depth; }

  PI0_INDEX Stripe stripe(int block, int blocks) const {
    return {static_cast<int>(block * steps() / blocks), static_cast<int>((block + 1) * steps() / blocks)};
  }
  // The block whose stripe contains a step.
  PI0_INDEX int block_of(int step, int blocks) const {
    return static_cast<int>(((step + 1ll) * blocks - 1) / steps());
  }
};

// Walks along the line without dividing.
struct Position {
  int row_tile, column_tile, step;

  static PI0_INDEX Position at(const Work &work, int line) {
    const int tile = line / work.depth;
    return {tile % work.row_tiles, tile / work.row_tiles, line % work.depth};
  }
  PI0_INDEX void advance(const Work &work) {
    if (++step == work.depth) next_tile(work);
  }
  PI0_INDEX void next_tile(const Work &work) {
    step = 0;
    if (++row_tile < work.row_tiles) return;
    row_tile = 0;
    ++column_tile;
  }
};

// A block holds a part of at most two tiles that others also work on: the first and the last of its stripe.
PI0_INDEX int part_slot(int block, bool first_tile_of_block) { return 2 * block + (first_tile_of_block ? 0 : 1); }

// Shared memory
//
// Rows of 64 or 128 bytes, whose chunks are exchanged such that the same chunk of eight neighbouring rows lies in eight
// different groups of banks.

template <int row_bytes> PI0_INDEX int swizzled(int row, int chunk) {
  constexpr int chunks = row_bytes / chunk_bytes, rows_per_line = 8 / chunks;
  return row * row_bytes + (chunk ^ row / rows_per_line % chunks) * chunk_bytes;
}

// The same row, `steps` steps of two chunks further; `offset` belongs to one of the first two chunks of a row.
PI0_INDEX int steps_further(int offset, int steps) { return offset ^ steps * 2 * chunk_bytes; }

// Fragments

// Row and chunk that a lane addresses to load 16 rows of one step of a.
PI0_INDEX int a_row(int lane) { return lane % 16; }
PI0_INDEX int a_chunk(int lane) { return lane / 16; }

// Stored row and chunk that a lane addresses to load two neighbouring fragments (8 columns each) of one step of weight.
PI0_INDEX int weight_row(int lane) { return lane / 16 * 8 + lane % 8; }
PI0_INDEX int weight_chunk(int lane) { return lane / 8 % 2; }

// Row of the output, within 16, that a lane accumulates in sums[2 * half] and sums[2 * half + 1].
PI0_INDEX int sum_row(int lane, int half) { return lane / 4 + 8 * half; }

// A fragment gives a lane the columns 2 · (lane % 4) and the next. Which columns of the output these are is free, since it
// only depends on which weights are put there. They are chosen such that all `fragments` of a warp together give a lane
// one run of 2 · fragments neighbours, which are then scaled, loaded and stored as vectors.

template <int fragments> PI0_INDEX int run_column(int lane) { return lane % 4 * 2 * fragments; }

// Column of the warp's output that fragment `fragment` holds at its column `at`.
template <int fragments> PI0_INDEX int column_of(int fragment, int at) {
  return at / 2 * 2 * fragments + 2 * fragment + at % 2;
}

// The inverse: 8 · fragment + at, which is the row of shared memory that keeps this column of the weights.
template <int fragments> PI0_INDEX int stored_row(int column) {
  constexpr int run = 2 * fragments, warp = 4 * run;
  return column / warp * warp + column % run / 2 * 8 + column % warp / run * 2 + column % 2;
}

// Packed weights of one byte, for products with 16-bit activations
//
// One block of 128 columns and 64 of k is contiguous: by warp (32 columns), step (16 of k), lane and fragment, 4 bytes
// each. Blocks follow each other along k. Of its 4 weights, those in bytes 1 and 3 are the first register of the
// fragment, those in bytes 0 and 2 the second: this is where both ways of unpacking want them.

constexpr int packed_columns = 128, packed_depth = 64, packed_bytes = packed_columns * packed_depth;
constexpr int packed_fragments = 4;

PI0_INDEX int packed_at(int warp, int step, int lane) { return ((warp * 4 + step) * warp_size + lane) * chunk_bytes; }

// Column within the block, and k within the block, of byte `byte` of fragment `fragment` of a lane.
PI0_INDEX int packed_column(int warp, int lane, int fragment) {
  return 32 * warp + column_of<packed_fragments>(fragment, lane / 4);
}
PI0_INDEX int packed_k(int step, int lane, int byte) {
  return 16 * step + lane % 4 * 2 + byte / 2 + (byte % 2 ? 0 : 8);
}

}  // namespace pi0::gemm

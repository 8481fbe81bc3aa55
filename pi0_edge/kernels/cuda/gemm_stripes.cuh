// How a block works through its stripe: a ring of stages in shared memory that asynchronous copies fill ahead of the
// tensor cores, across the borders of tiles, and tiles that several blocks share.
#pragma once

#include "gemm_epilogue.cuh"

namespace pi0::gemm {

// Where blocks leave their parts of shared tiles, given by the caller.
struct Workspace {
  unsigned *tickets;  // one per tile; zero before the first launch, and again after every launch
  void *parts;        // two per block, [fragments of a thread, threads] of four sums
};

constexpr int64_t ticket_bytes(int64_t tiles) { return (tiles * 4 + 255) / 256 * 256; }

// A Product says what one step is:
//
//   rows, columns, threads, stages       constants: of the tile, of the block, of the ring
//   row_fragments, column_fragments      constants: 16x8 pieces of the output that a warp accumulates
//   fragment_rows                        constant: from one of its row fragments to the next, in rows of the tile
//   least_row_fragments                  constant: with how few a step can be multiplied, see with_fragments
//   Sum, Shared                          types: float or int; a struct with `stage[stages]` and `ticket`
//   work, m, n, epilogue, workspace
//   ask_ahead()                          called when the copies of the last step have been started
//   load(position, stage)                starts the copies of one step
//   multiply<fragments>(stage, sums)     adds the step to the sums of so many row fragments of this warp, from the first
//   warp_row(thread), warp_column(thread)  where the output of a thread's warp begins in the tile
template <class Product> struct Sums {
  typename Product::Sum at[Product::row_fragments][Product::column_fragments][4];
};

template <class Product> __device__ __forceinline__ void clear(Sums<Product> &sums) {
#pragma unroll
  for (int i = 0; i < Product::row_fragments; i++)
#pragma unroll
    for (int j = 0; j < Product::column_fragments; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) sums.at[i][j][e] = 0;
}

// Leaves this block's part of a tile in the workspace. The block that comes last adds up all parts, in the order of
// their blocks, so that the result does not depend on who came last; it returns true and has the sums of the whole tile.
template <class Product>
__device__ bool add_parts(const Product &p, const Position &position, Sums<Product> &sums,
                          typename Product::Shared &shared) {
  using Part = Vector<typename Product::Sum, 4>;
  const int tile = position.column_tile * p.work.row_tiles + position.row_tile;
  const int first_step = tile * p.work.depth, blocks = static_cast<int>(gridDim.x);
  const int first = p.work.block_of(first_step, blocks), last = p.work.block_of(first_step + p.work.depth - 1, blocks);
  if (first == last) return true;

  const int thread = thread_index_again();
  const auto part = [&](int block, int i, int j) {
    const int64_t slot = part_slot(block, p.work.stripe(block, blocks).begin >= first_step);
    constexpr int size = Product::row_fragments * Product::column_fragments;
    return static_cast<Part *>(p.workspace.parts) +
           (slot * size + i * Product::column_fragments + j) * Product::threads + thread;
  };
#pragma unroll
  for (int i = 0; i < Product::row_fragments; i++)
#pragma unroll
    for (int j = 0; j < Product::column_fragments; j++) {
      Part own;
#pragma unroll
      for (int e = 0; e < 4; e++) own.at[e] = sums.at[i][j][e];
      *part(static_cast<int>(blockIdx.x), i, j) = own;
    }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) shared.ticket = take_ticket(p.workspace.tickets + tile, static_cast<unsigned>(last - first));
  __syncthreads();
  if (shared.ticket != static_cast<unsigned>(last - first)) return false;
  __threadfence();
  clear(sums);
  for (int block = first; block <= last; block++)
#pragma unroll
    for (int i = 0; i < Product::row_fragments; i++)
#pragma unroll
      for (int j = 0; j < Product::column_fragments; j++) {
        const Part other = written_by_others(part(block, i, j));
#pragma unroll
        for (int e = 0; e < 4; e++) sums.at[i][j][e] += other.at[e];
      }
  return true;
}

// Every lane owns, in each of its rows, one run of neighbouring columns: either inside the output or outside.
template <class Product>
__device__ __forceinline__ void finish_tile(const Product &p, const Position &tile, const Sums<Product> &sums) {
  constexpr int fragments = Product::column_fragments;
  const int thread = thread_index_again(), lane = thread % warp_size;
  const int column = tile.column_tile * Product::columns + p.warp_column(thread) + run_column<fragments>(lane);
  if (column >= p.n) return;
#pragma unroll
  for (int i = 0; i < Product::row_fragments; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = tile.row_tile * Product::rows + p.warp_row(thread) + Product::fragment_rows * i + sum_row(lane, half);
      if (row >= p.m && !p.epilogue.by_whole_warps) continue;
      const float row_scale = row_scale_of(p.epilogue, row < p.m ? row : 0);
      float squares = 0.0f;
      if (row < p.m) {
        typename Product::Sum run[2 * fragments];
#pragma unroll
        for (int c = 0; c < 2 * fragments; c++) run[c] = sums.at[i][c / 2][2 * half + c % 2];
        squares = finish_run(p.epilogue, row, column, p.n, row_scale, run);
      }
      leave_squares(p.epilogue, row, p.m, column, p.n, squares);
    }
}

template <int value_> struct Constant {
  static constexpr int value = value_;
};

// Calls `function` with the number of row fragments of a warp that the rest of the output has rows for. It is a constant,
// so that the sums stay in registers: each number has a loop of its own.
template <class Product, int fragments = Product::row_fragments, class Function>
__device__ __forceinline__ void with_fragments(int rows, Function function) {
  if constexpr (fragments > Product::least_row_fragments)
    if (rows <= (fragments - 1) * Product::fragment_rows)
      return with_fragments<Product, fragments - 1>(rows, function);
  function(Constant<fragments>());
}

template <class Product> __device__ __forceinline__ void run_stripe(const Product &p, typename Product::Shared &shared) {
  const Stripe stripe = p.work.stripe(static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x));
  Position loading = Position::at(p.work, stripe.begin), tile = loading;
  int to_load = stripe.end - stripe.begin, to_multiply = to_load, stage = 0;
  const auto load_next = [&](int to) {
    if (to_load > 0) {
      p.load(loading, shared.stage[to]);
      loading.advance(p.work);
      if (--to_load == 0) p.ask_ahead();
    }
    commit_copies();  // an empty group keeps the count of groups equal to the count of steps
  };
  for (int to = 0; to < Product::stages - 1; to++) load_next(to);

  while (to_multiply > 0) {
    Sums<Product> sums;
    clear(sums);
    const int steps = min(p.work.depth - tile.step, to_multiply);
    with_fragments<Product>(p.m - tile.row_tile * Product::rows, [&](auto fragments) {
      for (int i = 0; i < steps; i++) {
        wait_for_copies<Product::stages - 2>();
        __syncthreads();  // this step is there for all, and nobody still reads the stage that is filled next
        load_next(stage == 0 ? Product::stages - 1 : stage - 1);
        p.template multiply<decltype(fragments)::value>(shared.stage[stage], sums);
        if (++stage == Product::stages) stage = 0;
      }
    });
    to_multiply -= steps;
    if (add_parts(p, tile, sums, shared)) finish_tile(p, tile, sums);
    tile.next_tile(p.work);
  }
}

// Bytes of workspace that a launch needs: none where every tile belongs to one block.
template <class Product> int64_t needed_workspace(const Work &work, int64_t blocks) {
  if (work.tiles() % blocks == 0) return 0;
  constexpr int64_t part = Product::row_fragments * Product::column_fragments * Product::threads * 4 * 4;
  return ticket_bytes(work.tiles()) + 2 * blocks * part;
}

// Cuts the caller's workspace, which `arguments.workspace.tickets` points to; false where the launch is not possible.
template <class Product, class Arguments> bool set_workspace(Arguments &arguments, int64_t blocks, int64_t bytes) {
  if (blocks < 1 || arguments.work.steps() > INT32_MAX || blocks > arguments.work.steps()) return false;
  auto *start = reinterpret_cast<unsigned char *>(arguments.workspace.tickets);
  if (bytes < needed_workspace<Product>(arguments.work, blocks)) return false;
  arguments.workspace.parts = start + ticket_bytes(arguments.work.tiles());
  return true;
}

}  // namespace pi0::gemm

// Products of two matrices of one-byte elements, INT8 or E4M3, both rows of k.
#pragma once

#include "gemm_stripes.cuh"

namespace pi0::gemm {

struct Int8 {
  using Sum = int;
  static constexpr bool compiled = true;
  static constexpr int most_warp_rows = 80;
  static constexpr bool keeps_addresses = true;  // of copies, in registers: a step does not begin with computing them
  static __device__ __forceinline__ void multiply(int (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    multiply_add(sums, a, b0, b1);
  }
};

struct Fp8 {
  using Sum = float;
  static constexpr bool compiled = PI0_HAS_FP8;
  static constexpr int most_warp_rows = 48;  // mma.sync unpacks E4M3 to fp16, for which it needs registers
  static constexpr bool keeps_addresses = false;
  static __device__ __forceinline__ void multiply(float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    multiply_add_e4m3(sums, a, b0, b1);
  }
};

// A tile of the output. A warp computes 64 columns of warp_rows rows, 16 at a time: these fragments are dealt to the warps
// in turn, so that where the tile ends early, every warp has as few as can be.
template <int rows_, int columns_, int warp_rows_, int stages_> struct Tile {
  static constexpr int rows = rows_, columns = columns_, warp_rows = warp_rows_, stages = stages_;
  static constexpr int row_warps = rows / warp_rows, warp_columns = 64;
  static constexpr int threads = row_warps * (columns / warp_columns) * warp_size;
};

struct BytesArguments {
  const uint8_t *a, *weight;  // [m, k], [n, k]
  int m, n, k;
  Work work;
  Epilogue epilogue;
  Workspace workspace;
};

template <class Element, class Tile> struct BytesProduct : BytesArguments {
  static constexpr int rows = Tile::rows, columns = Tile::columns, threads = Tile::threads, stages = Tile::stages;
  static constexpr int depth = 64;  // bytes of k of one step
  static constexpr int row_fragments = Tile::warp_rows / 16, column_fragments = Tile::warp_columns / 8;
  static constexpr int fragment_rows = 16 * Tile::row_warps, least_row_fragments = 1;
  using Sum = typename Element::Sum;

  struct Stage {
    alignas(128) uint8_t a[rows * depth];
    alignas(128) uint8_t weight[columns * depth];
  };
  struct Shared {
    Stage stage[stages];
    unsigned ticket;
  };

  __device__ __forceinline__ explicit BytesProduct(const BytesArguments &arguments) : BytesArguments(arguments) {}

  static __device__ __forceinline__ int warp_row(int thread) {
    return thread / warp_size / (columns / Tile::warp_columns) * 16;
  }
  static __device__ __forceinline__ int warp_column(int thread) {
    return thread / warp_size % (columns / Tile::warp_columns) * Tile::warp_columns;
  }

  // Rows first_row and following of `matrix` [total_rows, k]: four threads copy one row; what is outside becomes zero.
  template <int count, bool by_columns>
  __device__ __forceinline__ void load_rows(uint8_t *shared, const uint8_t *matrix, int first_row, int total_rows,
                                            int step) const {
    constexpr int chunks = depth / chunk_bytes, rows_at_once = threads / chunks;
    const int thread = Element::keeps_addresses ? thread_index() : thread_index_again(), chunk = thread % chunks;
    const int at_k = step * depth + chunk * chunk_bytes;
    const uint8_t *from = matrix + static_cast<int64_t>(first_row + thread / chunks) * k + at_k;
    const int inside = at_k < k ? total_rows - first_row : 0;
#pragma unroll
    for (int i = 0; i < count; i += rows_at_once) {
      const int row = thread / chunks + i;
      if (count % rows_at_once != 0 && row >= count) break;
      const int stored = by_columns ? stored_row<column_fragments>(row) : row;
      copy_async(shared + swizzled<depth>(stored, chunk), from, row < inside);
      from += static_cast<int64_t>(rows_at_once) * k;
    }
  }

  __device__ __forceinline__ void load(const Position &position, Stage &stage) const {
    load_rows<rows, false>(stage.a, a, position.row_tile * rows, m, position.step);
    load_rows<columns, true>(stage.weight, weight, position.column_tile * columns, n, position.step);
  }

  __device__ __forceinline__ void ask_ahead() const {}

  template <int fragments>
  __device__ __forceinline__ void multiply(const Stage &stage, Sums<BytesProduct> &sums) const {
    const int thread = thread_index(), lane = thread % warp_size;
    const uint8_t *warp_a = stage.a + warp_row(thread) * depth, *warp_weight = stage.weight + warp_column(thread) * depth;
    const int at_a = swizzled<depth>(a_row(lane), a_chunk(lane));
    const int at_weight = swizzled<depth>(weight_row(lane), weight_chunk(lane));
#pragma unroll
    for (int step = 0; step < depth / 32; step++) {
      unsigned of_weight[column_fragments / 2][4];
#pragma unroll
      for (int j = 0; j < column_fragments / 2; j++)
        load_matrices(of_weight[j], warp_weight + 16 * j * depth + steps_further(at_weight, step));
#pragma unroll
      for (int i = 0; i < fragments; i++) {
        unsigned of_a[4];
        load_matrices(of_a, warp_a + fragment_rows * i * depth + steps_further(at_a, step));
#pragma unroll
        for (int j = 0; j < column_fragments; j++)
          Element::multiply(sums.at[i][j], of_a, of_weight[j / 2][j % 2 * 2], of_weight[j / 2][j % 2 * 2 + 1]);
      }
    }
  }
};

template <class Element, class Tile>
__global__ void __launch_bounds__(Tile::threads) bytes_kernel(const BytesArguments arguments) {
  if constexpr (Element::compiled) {
    using Product = BytesProduct<Element, Tile>;
    run_stripe(Product(arguments), shared_memory<typename Product::Shared>());
  }
}

// The tiles by their numbers, which gemm_plan.py knows and chooses from.
template <class Function> int with_tile(int64_t number, Function function) {
  switch (number) {
    case 0: return function(Tile<64, 128, 32, 5>());
    case 1: return function(Tile<128, 128, 64, 4>());
    case 2: return function(Tile<144, 128, 48, 4>());
    case 3: return function(Tile<160, 128, 80, 4>());
    case 4: return function(Tile<192, 128, 48, 6>());
    case 5: return function(Tile<256, 128, 64, 6>());
    default: return cudaErrorInvalidValue;
  }
}

// `a_scale_step`: 1 for a scale per row of a, 0 for one scale for all of it.
template <class Element> int launch_bytes(const pi0_gemm &gemm, int a_scale_step, int64_t stream) {
  constexpr int64_t longest = 1 << 20;
  BytesArguments arguments{};
  arguments.a = static_cast<const uint8_t *>(gemm.a);
  arguments.weight = static_cast<const uint8_t *>(gemm.weight);
  arguments.epilogue = epilogue_of(gemm, a_scale_step);
  arguments.workspace.tickets = static_cast<unsigned *>(gemm.workspace);
  const int64_t m = gemm.m, n = gemm.n, k = gemm.k;
  if (m < 1 || n < 16 || k < 16 || m > longest || n > longest || k > 65536 || n % 16 || k % 16 ||
      gemm.squares || gemm.norm_scale || gemm.next || !arguments.epilogue.possible())
    return cudaErrorInvalidValue;
  arguments.m = static_cast<int>(m), arguments.n = static_cast<int>(n), arguments.k = static_cast<int>(k);
  return with_tile(gemm.tile, [&](auto shape) -> int {
    using Shape = decltype(shape);
    if constexpr (Shape::warp_rows > Element::most_warp_rows) {
      return cudaErrorInvalidValue;
    } else {
      using Product = BytesProduct<Element, Shape>;
      arguments.work = {divide_up(m, Product::rows), divide_up(n, Product::columns), divide_up(k, Product::depth)};
      if (!set_workspace<Product>(arguments, gemm.blocks, gemm.workspace_bytes)) return cudaErrorInvalidValue;
      return launch(bytes_kernel<Element, Shape>, dim3(static_cast<unsigned>(gemm.blocks)), dim3(Product::threads),
                    sizeof(typename Product::Shared), stream, arguments);
    }
  });
}

}  // namespace pi0::gemm

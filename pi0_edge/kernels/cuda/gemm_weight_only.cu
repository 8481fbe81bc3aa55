// out = epilogue(a · weightᵀ) with 16-bit activations and packed one-byte weights, INT8 or E4M3, which are unpacked in
// registers on their way to the tensor cores. Made for few rows: each weight is read from memory once, and what matters
// is that every multiprocessor reads all the time. So the stripes are equally long, whatever the tiles.
#include "ahead.cuh"
#include "gemm_norm.cuh"
#include "gemm_stripes.cuh"

namespace pi0::gemm {

// Two registers of a fragment from one word of packed weights.
struct Pair {
  unsigned first, second;
};

struct Int8Weights {  // bytes are weight + 128
  template <class Activations> static constexpr float unit(Activations) { return 1.0f; }

  // 0x64 over a byte is the fp16 number 1024 + byte.
  static __device__ __forceinline__ Pair unpacked(fp16, unsigned word) {
    constexpr unsigned high = 0x64646464, offset = 0x64806480;  // 1024 + 128
    return {minus_pair(fp16(), chosen_bytes(word, high, 0x4341), offset),
            minus_pair(fp16(), chosen_bytes(word, high, 0x4240), offset)};
  }

  // bfloat16 is too short for that; 0x4b0000 over a byte is the float32 number 2^23 + byte, and what is left after the
  // subtraction fits into the upper half of a float32, which is a bfloat16.
  static __device__ __forceinline__ float number(unsigned word, unsigned byte) {
    return __uint_as_float(chosen_bytes(word, 0x4b000000, 0x7440 + byte)) - (8388608.0f + 128.0f);
  }
  static __device__ __forceinline__ unsigned pair(unsigned word, unsigned low, unsigned high) {
    return chosen_bytes(__float_as_uint(number(word, low)), __float_as_uint(number(word, high)), 0x7632);
  }
  static __device__ __forceinline__ Pair unpacked(bf16, unsigned word) { return {pair(word, 1, 3), pair(word, 0, 2)}; }
};

struct Fp8Weights {  // bytes are E4M3; NaN is not among them
  // The exponent of E4M3 has a bias of 7. Moved as it is into the wider one of fp16 (bias 15), the number becomes smaller by
  // 2^8, which the epilogue makes good; in bfloat16 (bias 127) by 2^120, which must not last until then.
  static constexpr float unit(fp16) { return 256.0f; }
  static constexpr float unit(bf16) { return 1.0f; }

  template <int shift> static __device__ __forceinline__ unsigned moved(unsigned word) {
    return (word & 0x80008000) | (word & 0x7f007f00) >> shift;
  }
  static __device__ __forceinline__ Pair unpacked(fp16, unsigned word) { return {moved<1>(word), moved<1>(word << 8)}; }
  static __device__ __forceinline__ Pair unpacked(bf16, unsigned word) {
    constexpr unsigned factor = 0x7b807b80;  // 2^120, twice
    return {times_pair(bf16(), moved<4>(word), factor), times_pair(bf16(), moved<4>(word << 8), factor)};
  }
};

struct WeightOnlyArguments {
  const void *a;           // [m, k]
  const uint8_t *weight;   // packed
  int m, n, k;
  Work work;
  NormEpilogue epilogue;
  Workspace workspace;
  Ahead ahead;             // of the product that follows
};

template <class Weights, class Activations> struct WeightOnlyProduct : WeightOnlyArguments {
  static constexpr int rows = 64, columns = packed_columns, threads = 128, stages = 5;
  static constexpr int depth = packed_depth, row_bytes = depth * 2;
  static constexpr int row_fragments = rows / 16, column_fragments = packed_fragments;
  static constexpr int fragment_rows = 16, least_row_fragments = row_fragments;
  using Sum = float;

  struct Stage {
    alignas(128) uint8_t a[rows * row_bytes];
    alignas(128) uint8_t weight[packed_bytes];
  };
  struct Shared {
    Stage stage[stages];
    unsigned ticket;
  };

  __device__ __forceinline__ explicit WeightOnlyProduct(const WeightOnlyArguments &given) : WeightOnlyArguments(given) {}

  static __device__ __forceinline__ int warp_row(int) { return 0; }
  static __device__ __forceinline__ int warp_column(int thread) { return thread / warp_size * 32; }

  __device__ __forceinline__ void load(const Position &position, Stage &stage) const {
    constexpr int chunks = row_bytes / chunk_bytes, rows_at_once = threads / chunks;
    const int thread = thread_index(), chunk = thread % chunks;
    const int at_k = position.step * depth + chunk * (chunk_bytes / 2), first_row = position.row_tile * rows;
    const uint8_t *from = static_cast<const uint8_t *>(a) +
                          (static_cast<int64_t>(first_row + thread / chunks) * k + at_k) * 2;
    const int inside = at_k < k ? m - first_row : 0;
#pragma unroll
    for (int i = 0; i < rows; i += rows_at_once) {
      const int row = thread / chunks + i;
      copy_async(stage.a + swizzled<row_bytes>(row, chunk), from, row < inside);
      from += static_cast<int64_t>(rows_at_once) * k * 2;
    }
    const uint8_t *packed =
        weight + (static_cast<int64_t>(position.column_tile) * work.depth + position.step) * packed_bytes;
#pragma unroll
    for (int i = thread * chunk_bytes; i < packed_bytes; i += threads * chunk_bytes)
      copy_async(stage.weight + i, packed + i);
  }

  __device__ __forceinline__ void ask_ahead() const {
    ahead.ask(static_cast<int>(blockIdx.x) * threads + thread_index(), static_cast<int>(gridDim.x) * threads);
  }

  template <int fragments>
  __device__ __forceinline__ void multiply(const Stage &stage, Sums<WeightOnlyProduct> &sums) const {
    static_assert(fragments == row_fragments);
    const int thread = thread_index(), lane = thread % warp_size;
    const int at_a = swizzled<row_bytes>(a_row(lane), a_chunk(lane));
#pragma unroll
    for (int step = 0; step < depth / 16; step++) {
      const auto words = *reinterpret_cast<const Vector<unsigned, packed_fragments> *>(
          stage.weight + packed_at(thread / warp_size, step, lane));
      unsigned of_a[row_fragments][4];
#pragma unroll
      for (int i = 0; i < row_fragments; i++)
        load_matrices(of_a[i], stage.a + 16 * i * row_bytes + steps_further(at_a, step));
#pragma unroll
      for (int j = 0; j < column_fragments; j++) {
        const Pair of_weight = Weights::unpacked(Activations(), words.at[j]);
#pragma unroll
        for (int i = 0; i < row_fragments; i++)
          multiply_add<Activations>(sums.at[i][j], of_a[i], of_weight.first, of_weight.second);
      }
    }
  }
};

template <class Weights, class Activations>
__global__ void __launch_bounds__(128, 2) weight_only_kernel(const WeightOnlyArguments arguments) {
  using Product = WeightOnlyProduct<Weights, Activations>;
  run_stripe(Product(arguments), shared_memory<typename Product::Shared>());
}

template <class Weights, class Activations>
int launch_weight_only(WeightOnlyArguments arguments, int64_t blocks, int64_t workspace_bytes, int64_t stream) {
  using Product = WeightOnlyProduct<Weights, Activations>;
  arguments.epilogue.unit = Weights::unit(Activations());
  if (!set_workspace<Product>(arguments, blocks, workspace_bytes)) return cudaErrorInvalidValue;
  return launch(weight_only_kernel<Weights, Activations>, dim3(static_cast<unsigned>(blocks)), dim3(Product::threads),
                sizeof(typename Product::Shared), stream, arguments);
}

}  // namespace pi0::gemm

PI0_API int pi0_gemm_weight_only(const pi0_gemm *gemm, int64_t stream) {
  using namespace pi0::gemm;
  constexpr int64_t longest = 1 << 20;
  const int64_t m = gemm->m, n = gemm->n, k = gemm->k;
  WeightOnlyArguments arguments{};
  arguments.a = gemm->a;
  arguments.weight = static_cast<const uint8_t *>(gemm->weight);
  arguments.epilogue = NormEpilogue(*gemm);
  arguments.ahead = pi0::ahead_of(gemm->next, gemm->next_bytes);
  arguments.workspace.tickets = static_cast<unsigned *>(gemm->workspace);
  if (m < 1 || n < 16 || k < 16 || m > longest || n > longest || k > longest || n % 16 || k % 16 ||
      gemm->a_scale != nullptr || gemm->next_bytes < 0 || !arguments.epilogue.possible(n, k))
    return cudaErrorInvalidValue;
  arguments.m = static_cast<int>(m), arguments.n = static_cast<int>(n), arguments.k = static_cast<int>(k);
  arguments.work = {pi0::divide_up(m, 64), pi0::divide_up(n, packed_columns),
                    pi0::divide_up(k, packed_depth)};
  const auto launch_with = [&](auto activations) {
    using Activations = decltype(activations);
    return gemm->fp8_weights
               ? launch_weight_only<Fp8Weights, Activations>(arguments, gemm->blocks, gemm->workspace_bytes, stream)
               : launch_weight_only<Int8Weights, Activations>(arguments, gemm->blocks, gemm->workspace_bytes, stream);
  };
  if (gemm->a_type == PI0_BF16) return launch_with(pi0::bf16());
  if (gemm->a_type == PI0_FP16) return launch_with(pi0::fp16());
  return cudaErrorInvalidValue;
}

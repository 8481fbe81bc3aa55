// The front of an Euler step: noisy actions to action tokens.
//
//   hidden = silu(x · foldedᵀ + bias of this step)        folded: action_in_proj and the action half of the time MLP
//   tokens = hidden · outᵀ + out_bias                     π0; in π0.5 the tokens are x · inᵀ + bias
//
// Tokens of frozen actions take the bias of time 0 (`frozen_rows.cuh`).
//
// Each block owns 64 output columns (the last one what is left of them) of 64 tokens, or of 32 where `hidden` of so many
// does not fit the shared memory. It computes their `hidden` for itself (32 multiplications per element), so that one
// launch does both layers; its rows of `out` are already on their way from memory meanwhile. x and the folded weight are
// float32 and stay so: each is split into two bfloat16, and three of the four products are added (error below 2^-16).
//
// x has `action_dim` columns. Those of the folded weight are padded with zeros to a multiple of 32, and so are those of x
// when they are read: an action of any width is so many pieces of 32.
#include "frozen_rows.cuh"

namespace pi0 {

constexpr int piece_columns = 32, piece_steps = piece_columns / 16;
constexpr int block_columns = 64, block_depth = 64, stages = 3, pad = 8;
constexpr int embed_warps = 8;

template <class T> struct WeightStage {
  T rows[block_columns][block_depth + pad];
};

// A register pair of a tensor-core operand: rounded to bfloat16, and what the rounding lost.
struct Split {
  unsigned high, low;
};

__device__ __forceinline__ Split split(Vector<float, 2> x) {
  const float high[2] = {to_float(from_float<bf16>(x.at[0])), to_float(from_float<bf16>(x.at[1]))};
  return {pack<bf16>(high[0], high[1]), pack<bf16>(x.at[0] - high[0], x.at[1] - high[1])};
}

// The tokens of a block: rows of x, and how many of them are frozen.
struct Tokens {
  const float *x;
  int count, action_dim, pieces, frozen;

  __device__ __forceinline__ Tokens(const float *x, int tokens, int action_dim, const int *frozen, int first)
      : x(x + static_cast<int64_t>(first) * action_dim), count(tokens - first), action_dim(action_dim),
        pieces(divide_up(action_dim, piece_columns)), frozen(frozen_rows(frozen) - first) {}
};

// A piece of their noisy actions as tensor-core operands, in every warp.
template <int token_tiles> struct Actions {
  unsigned high[token_tiles][piece_steps][4], low[token_tiles][piece_steps][4];

  __device__ __forceinline__ void load(const Tokens &tokens, int piece) {
    const int lane = threadIdx.x % warp_size;
    #pragma unroll
    for (int tile = 0; tile < token_tiles; tile++)
      #pragma unroll
      for (int step = 0; step < piece_steps; step++)
        #pragma unroll
        for (int i = 0; i < 4; i++) {
          const int token = tile * 16 + lane / 4 + i % 2 * 8;
          const int column = piece * piece_columns + step * 16 + lane % 4 * 2 + i / 2 * 8;
          const float *row = tokens.x + static_cast<int64_t>(token) * tokens.action_dim;
          Vector<float, 2> pair = {};
          if (token < tokens.count && column < tokens.action_dim) pair.at[0] = row[column];
          if (token < tokens.count && column + 1 < tokens.action_dim) pair.at[1] = row[column + 1];
          const Split parts = split(pair);
          high[tile][step][i] = parts.high;
          low[tile][step][i] = parts.low;
        }
  }
};

// Eight columns of x · weightᵀ + bias, for all tokens; the second bias for those that are frozen. A single piece of the
// actions was loaded before, several take turns.
template <int token_tiles>
__device__ __forceinline__ void project_actions(float (&sums)[token_tiles][4], Actions<token_tiles> &actions,
                                                const Tokens &tokens, const float *weight, const float *bias, int width,
                                                int first_column) {
  const int lane = threadIdx.x % warp_size;
  const float *own = bias + first_column + lane % 4 * 2;
  const auto moving = *reinterpret_cast<const Vector<float, 2> *>(own);
  const auto still = *reinterpret_cast<const Vector<float, 2> *>(tokens.frozen > 0 ? own + width : own);
  #pragma unroll
  for (int tile = 0; tile < token_tiles; tile++)
    #pragma unroll
    for (int i = 0; i < 4; i++)
      sums[tile][i] = tile * 16 + i / 2 * 8 + lane / 4 < tokens.frozen ? still.at[i % 2] : moving.at[i % 2];
  const float *row = weight + static_cast<int64_t>(first_column + lane / 4) * tokens.pieces * piece_columns;
  for (int piece = 0; piece < tokens.pieces; piece++) {
    if (tokens.pieces > 1) actions.load(tokens, piece);
    #pragma unroll
    for (int step = 0; step < piece_steps; step++) {
      const float *at = row + piece * piece_columns + step * 16 + lane % 4 * 2;
      const Split b0 = split(*reinterpret_cast<const Vector<float, 2> *>(at));
      const Split b1 = split(*reinterpret_cast<const Vector<float, 2> *>(at + 8));
      #pragma unroll
      for (int tile = 0; tile < token_tiles; tile++) {
        multiply_add<bf16>(sums[tile], actions.high[tile][step], b0.low, b1.low);
        multiply_add<bf16>(sums[tile], actions.low[tile][step], b0.high, b1.high);
        multiply_add<bf16>(sums[tile], actions.high[tile][step], b0.high, b1.high);
      }
    }
  }
}

template <class Out> __device__ __forceinline__ void store_pair(Out *to, float low, float high) {
  *reinterpret_cast<Vector<Out, 2> *>(to) = {from_float<Out>(low), from_float<Out>(high)};
}

template <class Out>
__global__ void __launch_bounds__(embed_warps *warp_size)
project_actions_kernel(const float *x, const float *weight, const float *bias, const int *frozen, Out *out, int count,
                       int width, int action_dim) {
  constexpr int token_tiles = 4;
  const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  const int first = blockIdx.x * block_columns + warp * 8, first_token = blockIdx.y * token_tiles * 16;
  if (first >= width) return;
  const Tokens tokens(x, count, action_dim, frozen, first_token);
  Actions<token_tiles> actions;
  actions.load(tokens, 0);
  float sums[token_tiles][4];
  project_actions(sums, actions, tokens, weight, bias, width, first);
  #pragma unroll
  for (int tile = 0; tile < token_tiles; tile++)
    #pragma unroll
    for (int half = 0; half < 2; half++) {
      const int token = tile * 16 + half * 8 + lane / 4;
      if (token < tokens.count)
        store_pair(out + static_cast<int64_t>(first_token + token) * width + first + lane % 4 * 2, sums[tile][2 * half],
                   sums[tile][2 * half + 1]);
    }
}

template <class T, class Out, int token_tiles>
__global__ void __launch_bounds__(embed_warps *warp_size)
embed_actions_kernel(const float *x, const float *weight, const float *bias, const int *frozen, const T *out_weight,
                     const float *out_bias, Out *out, int count, int width, int action_dim) {
  constexpr int warp_columns = block_columns / (embed_warps / token_tiles);
  auto *weights = &shared_memory<WeightStage<T>>();
  T *hidden = reinterpret_cast<T *>(weights + stages);
  const int depth_blocks = divide_up(width, block_depth), pitch = depth_blocks * block_depth + pad;
  const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  const int first_column = blockIdx.x * block_columns, first_token = blockIdx.y * token_tiles * 16;
  const Tokens tokens(x, count, action_dim, frozen, first_token);

  auto copy_weights = [&](int depth_block) {
    constexpr int chunk = 16 / sizeof(T), chunks = block_depth / chunk;
    if (depth_block < depth_blocks)
      for (int i = threadIdx.x; i < block_columns * chunks; i += embed_warps * warp_size) {
        const int row = first_column + i / chunks, column = i % chunks * chunk, depth = depth_block * block_depth + column;
        const bool there = row < width && depth < width;
        copy_async(&weights[depth_block % stages].rows[i / chunks][column],
                   there ? out_weight + static_cast<int64_t>(row) * width + depth : out_weight, there);
      }
    commit_copies();
  };
  for (int stage = 0; stage < stages; stage++) copy_weights(stage);

  {
    Actions<token_tiles> actions;
    actions.load(tokens, 0);
    for (int column = warp * 8; column < depth_blocks * block_depth; column += embed_warps * 8) {
      float sums[token_tiles][4] = {};  // silu(0) = 0: columns that are not there add nothing
      if (column < width) project_actions(sums, actions, tokens, weight, bias, width, column);
      #pragma unroll
      for (int tile = 0; tile < token_tiles; tile++)
        #pragma unroll
        for (int half = 0; half < 2; half++)
          store_pair(hidden + (tile * 16 + half * 8 + lane / 4) * pitch + column + lane % 4 * 2,
                     silu(sums[tile][2 * half]), silu(sums[tile][2 * half + 1]));
    }
  }

  const int token_tile = warp % token_tiles, warp_column = warp / token_tiles * warp_columns;
  float sums[warp_columns / 8][4] = {};
  for (int block = 0; block < depth_blocks; block++) {
    wait_for_copies<stages - 1>();
    __syncthreads();
    const auto &stage = weights[block % stages];
    #pragma unroll
    for (int step = 0; step < block_depth / 16; step++) {
      unsigned a[4], b[4];
      load_matrices(a, hidden + (token_tile * 16 + lane % 16) * pitch + block * block_depth + step * 16 + lane / 16 * 8);
      #pragma unroll
      for (int pair = 0; pair < warp_columns / 16; pair++) {
        load_matrices(b, &stage.rows[warp_column + pair * 16 + lane / 16 * 8 + lane % 8][step * 16 + lane / 8 % 2 * 8]);
        multiply_add<T>(sums[2 * pair], a, b[0], b[1]);
        multiply_add<T>(sums[2 * pair + 1], a, b[2], b[3]);
      }
    }
    __syncthreads();
    copy_weights(block + stages);
  }
  wait_for_copies<0>();

  #pragma unroll
  for (int i = 0; i < warp_columns / 8; i++) {
    const int column = first_column + warp_column + i * 8 + lane % 4 * 2;
    if (column >= width) continue;
    const auto start = *reinterpret_cast<const Vector<float, 2> *>(out_bias + column);
    #pragma unroll
    for (int half = 0; half < 2; half++) {
      const int token = token_tile * 16 + half * 8 + lane / 4;
      if (token < tokens.count)
        store_pair(out + static_cast<int64_t>(first_token + token) * width + column, sums[i][2 * half] + start.at[0],
                   sums[i][2 * half + 1] + start.at[1]);
    }
  }
}

template <class T> size_t embed_memory(int token_tiles, int64_t width) {
  const int pitch = divide_up(width, block_depth) * block_depth + pad;
  return sizeof(WeightStage<T>) * stages + sizeof(T) * token_tiles * 16 * pitch;
}

}  // namespace pi0

PI0_API int pi0_embed_actions(const float *x, const float *weight, const float *bias, const int *frozen,
                              const void *out_weight, const float *out_bias, void *out, int64_t tokens, int64_t width,
                              int64_t action_dim, int64_t type, int64_t out_type, int64_t stream) {
  using namespace pi0;
  if (tokens < 1 || width < 8 || width % 8 || action_dim < 1) return cudaErrorInvalidValue;
  if (out_type != PI0_FP32 && out_type != type) return cudaErrorInvalidValue;
  int shared_found = 0;
  const cudaError_t error = shared_memory_of_device(shared_found);
  if (error != cudaSuccess) return error;
  const auto grid = [&](int token_tiles) { return dim3(divide_up(width, block_columns), divide_up(tokens, token_tiles * 16)); };
  const dim3 block(embed_warps * warp_size);
  return with_16_bit_type(type, [&](auto *none) {
    using T = std::remove_pointer_t<decltype(none)>;
    auto run = [&](auto *to) {
      using Out = std::remove_pointer_t<decltype(to)>;
      if (!out_weight)
        return launch(project_actions_kernel<Out>, grid(4), block, 0, stream, x, weight, bias, frozen, to, tokens,
                      width, action_dim);
      const auto run_with = [&](auto kernel, int token_tiles) {
        return launch(kernel, grid(token_tiles), block, embed_memory<T>(token_tiles, width), stream, x, weight, bias, frozen,
                      static_cast<const T *>(out_weight), out_bias, to, tokens, width, action_dim);
      };
      if (embed_memory<T>(4, width) <= static_cast<size_t>(shared_found))
        return run_with(embed_actions_kernel<T, Out, 4>, 4);
      return run_with(embed_actions_kernel<T, Out, 2>, 2);
    };
    return out_type == PI0_FP32 ? run(static_cast<float *>(out)) : run(static_cast<T *>(out));
  });
}

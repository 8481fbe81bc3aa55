// Attention over exactly `keys` keys, every query seeing all of them: prefix, suffix and vision tower are this one kernel.
//
// A cache may have more rows than keys: how many are keys is then an integer in memory (`seen`), so that a graph that was
// captured once serves every length. Rows behind them are not read.
//
// The query heads that share one key-value head are just more queries (there is no mask that depends on the query), so
// a block takes row_warps · 16 of the tokens · group queries of one key-value head. Its warps form key_groups groups;
// group g takes every key_groups-th tile of 32 keys, with its own running maximum, sum and output, and the groups are
// added at the end. Splitting the keys inside a block, not over blocks, needs no workspace and no second launch: that is
// what the suffix has, 400 queries over 600 keys on 16 SMs.
//
//              keys ─►  tile 0   tile 1   tile 2   tile 3   tile 4 ...
//   queries  warp 0,1   group 0  group 1  group 2  group 3  group 0
//
// While a group computes softmax and p · v of one tile, its next keys arrive; while it computes q · k, its values do.
//
// In the Euler loop the tokens' own queries, keys and values come straight from their projection (`Own`): each block
// applies the rotary positions to the rows it has copied, and no kernel in between writes them out. In the first step the
// state's token comes with them: it sees no action, and its key and value are put into the cache for the other steps.
// Meanwhile memory has little to do, so the blocks ask the L2 cache for weights of the products that follow (`Ahead`).
#include "ahead.cuh"

namespace pi0 {

constexpr int tile_keys = 32;
constexpr int tile_rows = 16;  // queries of one warp

// Extra columns keep the eight rows of one ldmatrix in different banks.
__host__ __device__ constexpr int padded_dim(int head_dim) { return (head_dim + 15) / 16 * 16; }
__host__ __device__ constexpr int row_pitch(int head_dim) { return padded_dim(head_dim) + 8; }

template <class T, int head_dim, int row_warps, int key_groups> struct AttentionMemory {
  static constexpr int pitch = row_pitch(head_dim);
  T queries[row_warps * tile_rows][pitch];
  struct {
    T keys[tile_keys][pitch];
    T values[tile_keys][pitch];
  } tiles[key_groups];
  int ends[row_warps * tile_rows];  // how many keys each query sees, where new tokens differ in it
};

// For adding up the groups; the tiles are done with by then.
template <int head_dim, int row_warps, int key_groups> struct MergeMemory {
  float maximum[key_groups][row_warps * tile_rows];
  float sum[key_groups][row_warps * tile_rows];
  float output[row_warps * tile_rows][padded_dim(head_dim) + 4];
};

// Tokens whose keys and values are not in the cache but follow it: unrotated, in their fused projection.
template <class T> struct Own {
  const T *keys, *values;
  const float *table;          // of rotary positions: cosines, then sines, [rows, head_dim]
  int stride;                  // elements from one token of the projection to the next
  int kept;                    // how many tokens, from the first, see only the cache and each other, and join it
  T *kept_keys, *kept_values;  // the cache that they join
  Ahead ahead[2];              // of the two products that follow
};

struct AttentionSizes {
  int tokens, keys, group;             // queries per head, keys, query heads per key-value head
  const int *seen;                     // how many rows of the cache are keys, or null: all of them
  int q_stride, kv_stride, out_stride; // elements from one token to the next
  float scale;                         // of the scores, times log2(e)
};

// Copies rows [first, first + count) of a [.., head_dim] matrix; rows from `end` on become zeros.
template <int head_dim, int threads, class T, int pitch, class Address>
__device__ __forceinline__ void copy_rows(T (*to)[pitch], int count, int first, int end, int thread, Address address) {
  constexpr int chunk = 16 / sizeof(T), chunks = padded_dim(head_dim) / chunk;
  for (int i = thread; i < count * chunks; i += threads) {
    const int row = i / chunks, column = i % chunks * chunk;
    const bool valid = first + row < end && column < head_dim;
    copy_async(&to[row][column], valid ? address(first + row) + column : address(0), valid);
  }
}

constexpr int rotated_items = 4;

// Applies a rotary position in place to columns [column, column + 4) of a head and to those half a head further on.
template <int head_dim, class T>
__device__ __forceinline__ void rotate(Vector<T, rotated_items> &first, Vector<T, rotated_items> &second,
                                       const float *table, int position, int column) {
  using Factors = Vector<float, rotated_items>;
  const float *from = table + static_cast<int64_t>(position) * head_dim + column;
  const auto cosine = *reinterpret_cast<const Factors *>(from);
  const auto sine = *reinterpret_cast<const Factors *>(from + head_dim / 2);
  for (int j = 0; j < rotated_items; j++) {
    const float a = to_float(first.at[j]), b = to_float(second.at[j]);
    first.at[j] = from_float<T>(a * cosine.at[j] - b * sine.at[j]);
    second.at[j] = from_float<T>(b * cosine.at[j] + a * sine.at[j]);
  }
}

// Applies rotary positions in place: row r has position(r), and stays as it is where that is negative.
template <int head_dim, int threads, class T, int pitch, class Position>
__device__ __forceinline__ void rotate_rows(T (*rows)[pitch], int count, const float *table, int thread,
                                            Position position) {
  using Items = Vector<T, rotated_items>;
  constexpr int half = head_dim / 2, chunks = half / rotated_items;
  for (int i = thread; i < count * chunks; i += threads) {
    const int row = i / chunks, column = i % chunks * rotated_items, at = position(row);
    if (at < 0) continue;
    auto &first = *reinterpret_cast<Items *>(&rows[row][column]);
    auto &second = *reinterpret_cast<Items *>(&rows[row][column + half]);
    rotate<head_dim>(first, second, table, at, column);
  }
}

// Rotated keys and values of the kept tokens go to the rows of the cache behind the first `cached`.
template <int head_dim, class T> __device__ __forceinline__ void keep_tokens(const Own<T> &own, int cached, int kv_stride,
                                                                             int kv_head) {
  using Items = Vector<T, rotated_items>;
  constexpr int half = head_dim / 2, chunks = half / rotated_items;
  for (int i = threadIdx.x; i < own.kept * chunks; i += blockDim.x) {
    const int token = i / chunks, column = kv_head * head_dim + i % chunks * rotated_items, row = cached + token;
    const int64_t from = static_cast<int64_t>(token) * own.stride + column, to = static_cast<int64_t>(row) * kv_stride + column;
    Items first = *reinterpret_cast<const Items *>(own.keys + from);
    Items second = *reinterpret_cast<const Items *>(own.keys + from + half);
    rotate<head_dim>(first, second, own.table, row, i % chunks * rotated_items);
    *reinterpret_cast<Items *>(own.kept_keys + to) = first;
    *reinterpret_cast<Items *>(own.kept_keys + to + half) = second;
    for (int part = 0; part < head_dim; part += half)
      *reinterpret_cast<Items *>(own.kept_values + to + part) = *reinterpret_cast<const Items *>(own.values + from + part);
  }
}

// The largest of / the sum over the four threads that share the rows of an accumulator.
__device__ __forceinline__ float quad_max(float x) {
  x = max_or_nan(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return max_or_nan(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

template <class T, int head_dim, int row_warps, int key_groups, bool rotating>
__global__ void __launch_bounds__(row_warps *key_groups *warp_size)
attention_kernel(const T *q, const T *k, const T *v, T *out, AttentionSizes sizes, Own<T> own) {
  using Memory = AttentionMemory<T, head_dim, row_warps, key_groups>;
  using Merge = MergeMemory<head_dim, row_warps, key_groups>;
  constexpr int dim = padded_dim(head_dim), dim_tiles = dim / 8, rows = row_warps * tile_rows;
  constexpr int group_threads = row_warps * warp_size;
  auto &memory = shared_memory<Memory>();
  const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  const int row_warp = warp % row_warps, group = warp / row_warps, group_thread = threadIdx.x % group_threads;
  const int first_row = blockIdx.x * rows, kv_head = blockIdx.y, queries = sizes.tokens * sizes.group;
  const int64_t batch_token = static_cast<int64_t>(blockIdx.z) * sizes.tokens;
  const int64_t batch_key = static_cast<int64_t>(blockIdx.z) * sizes.keys;
  const int keys = sizes.seen ? *sizes.seen + (rotating ? sizes.tokens : 0) : sizes.keys, cached = keys - sizes.tokens;

  auto query_offset = [&](int row, int stride) {
    return (batch_token + row / sizes.group) * stride + (kv_head * sizes.group + row % sizes.group) * head_dim;
  };
  auto copy_tile = [&](T(*to)[Memory::pitch], const T *from, const T *own_from, int tile) {
    copy_rows<head_dim, group_threads>(to, tile_keys, tile * tile_keys, keys, group_thread, [&](int key) {
      if (rotating && key >= cached)
        return own_from + static_cast<int64_t>(key - cached) * own.stride + kv_head * head_dim;
      return from + (batch_key + key) * sizes.kv_stride + kv_head * head_dim;
    });
    commit_copies();
  };

  auto &tile = memory.tiles[group];
  copy_rows<head_dim, row_warps * key_groups * warp_size>(
      memory.queries, rows, first_row, queries, threadIdx.x, [&](int row) { return q + query_offset(row, sizes.q_stride); });
  if (rotating) commit_copies();
  copy_tile(tile.keys, k, own.keys, group);
  if (rotating) {
    constexpr int threads = row_warps * key_groups * warp_size;
    for (const Ahead &ahead : own.ahead) ahead.ask(blockIdx.x * threads + threadIdx.x, gridDim.x * threads);
    if (blockIdx.x == 0) keep_tokens<head_dim>(own, cached, sizes.kv_stride, kv_head);
    for (int row = threadIdx.x; row < rows; row += blockDim.x)
      memory.ends[row] = first_row + row < own.kept * sizes.group ? cached + own.kept : keys;
    wait_for_copies<1>();
    __syncthreads();  // queries are there
    rotate_rows<head_dim, row_warps * key_groups * warp_size>(memory.queries, rows, own.table, threadIdx.x, [&](int row) {
      return first_row + row < queries ? cached + (first_row + row) / sizes.group : -1;
    });
  }

  float output[dim_tiles][4] = {};
  float maximum[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};  // of rows lane / 4 and lane / 4 + 8

  const int tiles = divide_up(keys, tile_keys), rounds = divide_up(tiles, key_groups);
  for (int round = 0; round < rounds; round++) {
    const int number = round * key_groups + group;
    copy_tile(tile.values, v, own.values, number);
    wait_for_copies<1>();
    __syncthreads();  // keys are there
    if (rotating && (round + 1) * key_groups * tile_keys > cached) {
      rotate_rows<head_dim, group_threads>(tile.keys, tile_keys, own.table, group_thread, [&](int row) {
        const int key = number * tile_keys + row;
        return cached <= key && key < keys ? key : -1;
      });
      __syncthreads();  // keys are rotated
    }

    float scores[tile_keys / 8][4] = {};
    for (int step = 0; step < dim / 16; step++) {
      unsigned a[4];
      load_matrices(a, &memory.queries[row_warp * tile_rows + lane % 16][step * 16 + lane / 16 * 8]);
      #pragma unroll
      for (int pair = 0; pair < tile_keys / 16; pair++) {
        unsigned b[4];  // both halves of the dimensions, for keys 0-7 and for keys 8-15
        load_matrices(b, &tile.keys[pair * 16 + lane / 16 * 8 + lane % 8][step * 16 + lane / 8 % 2 * 8]);
        multiply_add<T>(scores[2 * pair], a, b[0], b[1]);
        multiply_add<T>(scores[2 * pair + 1], a, b[2], b[3]);
      }
    }
    __syncthreads();  // keys are used
    copy_tile(tile.keys, k, own.keys, number + key_groups);

    float factor[2];
    #pragma unroll
    for (int half = 0; half < 2; half++) {
      float largest = maximum[half];
      const int end = rotating ? memory.ends[row_warp * tile_rows + lane / 4 + 8 * half] : keys;
      #pragma unroll
      for (int i = 0; i < tile_keys / 8; i++)
        for (int j = 0; j < 2; j++) {
          float &score = scores[i][2 * half + j];
          const bool seen = number * tile_keys + i * 8 + lane % 4 * 2 + j < end;
          score = seen ? score * sizes.scale : -INFINITY;
          largest = max_or_nan(largest, score);
        }
      largest = quad_max(largest);
      // A group whose tiles all lie beyond the last key has seen nothing.
      const float base = largest == -INFINITY ? 0.0f : largest;
      factor[half] = exp2f(maximum[half] - base);
      maximum[half] = largest;
      float added = 0.0f;
      #pragma unroll
      for (int i = 0; i < tile_keys / 8; i++)
        for (int j = 0; j < 2; j++) added += scores[i][2 * half + j] = exp2f(scores[i][2 * half + j] - base);
      sum[half] = sum[half] * factor[half] + added;
    }
    #pragma unroll
    for (int i = 0; i < dim_tiles; i++)
      for (int j = 0; j < 4; j++) output[i][j] *= factor[j / 2];

    wait_for_copies<1>();
    __syncthreads();  // values are there
    #pragma unroll
    for (int step = 0; step < tile_keys / 16; step++) {
      const float(&low)[4] = scores[2 * step], (&high)[4] = scores[2 * step + 1];
      const unsigned p[4] = {pack<T>(low[0], low[1]), pack<T>(low[2], low[3]), pack<T>(high[0], high[1]),
                             pack<T>(high[2], high[3])};
      #pragma unroll
      for (int pair = 0; pair < dim_tiles / 2; pair++) {
        unsigned b[4];
        load_matrices_transposed(b, &tile.values[step * 16 + lane % 16][pair * 16 + lane / 16 * 8]);
        multiply_add<T>(output[2 * pair], p, b[0], b[1]);
        multiply_add<T>(output[2 * pair + 1], p, b[2], b[3]);
      }
    }
    __syncthreads();  // values are used
  }
  wait_for_copies<0>();
  __syncthreads();

  auto &merge = shared_memory<Merge>();
  const int row = row_warp * tile_rows + lane / 4, column = lane % 4 * 2;
  #pragma unroll
  for (int half = 0; half < 2; half++) {
    sum[half] = quad_sum(sum[half]);
    merge.maximum[group][row + 8 * half] = maximum[half];
    merge.sum[group][row + 8 * half] = sum[half];
  }
  __syncthreads();
  float weight[2];
  #pragma unroll
  for (int half = 0; half < 2; half++) {
    float largest = -INFINITY, total = 0.0f;
    for (int i = 0; i < key_groups; i++) largest = max_or_nan(largest, merge.maximum[i][row + 8 * half]);
    for (int i = 0; i < key_groups; i++)
      total += merge.sum[i][row + 8 * half] * exp2f(merge.maximum[i][row + 8 * half] - largest);
    weight[half] = exp2f(maximum[half] - largest) / total;
  }
  T *to[2];
  #pragma unroll
  for (int half = 0; half < 2; half++) {
    const int query = first_row + row + 8 * half;
    to[half] = query < queries ? out + query_offset(query, sizes.out_stride) + column : nullptr;
  }
  for (int adding = key_groups - 1; adding >= 0; adding--) {
    if (group == adding)
      #pragma unroll
      for (int i = 0; i < dim_tiles; i++)
        #pragma unroll
        for (int half = 0; half < 2; half++) {
          auto &partial = *reinterpret_cast<Vector<float, 2> *>(&merge.output[row + 8 * half][i * 8 + column]);
          float low = output[i][2 * half] * weight[half], high = output[i][2 * half + 1] * weight[half];
          if (adding < key_groups - 1) low += partial.at[0], high += partial.at[1];
          if (adding > 0) {
            partial = {low, high};
          } else if (to[half] && i * 8 < head_dim) {
            *reinterpret_cast<unsigned *>(to[half] + i * 8) = pack<T>(low, high);
          }
        }
    if (adding > 0) __syncthreads();
  }
}

template <int head_dim, int row_warps, int key_groups, bool rotating = false, class T>
int launch_attention(const T *q, const T *k, const T *v, T *out, int64_t batch, int64_t kv_heads,
                     const AttentionSizes &sizes, int64_t stream, const Own<T> &own = {}) {
  using Memory = AttentionMemory<T, head_dim, row_warps, key_groups>;
  static_assert(sizeof(MergeMemory<head_dim, row_warps, key_groups>) <= sizeof(Memory));
  const int blocks = divide_up(static_cast<int64_t>(sizes.tokens) * sizes.group, row_warps * tile_rows);
  return launch(attention_kernel<T, head_dim, row_warps, key_groups, rotating>, dim3(blocks, kv_heads, batch),
                dim3(row_warps * key_groups * warp_size), sizeof(Memory), stream, q, k, v, out, sizes, own);
}

inline AttentionSizes attention_sizes(int64_t tokens, int64_t keys, int64_t group, const int *seen, int64_t head_dim,
                                      int64_t q_stride, int64_t kv_stride, int64_t out_stride) {
  const auto narrow = [](int64_t x) { return static_cast<int>(x); };
  return {narrow(tokens),   narrow(keys),      narrow(group),      seen,
          narrow(q_stride), narrow(kv_stride), narrow(out_stride), 1.4426950409f / sqrtf(static_cast<float>(head_dim))};
}

}  // namespace pi0

PI0_API int pi0_attention(const void *q, const void *k, const void *v, const int *seen, void *out, int64_t batch,
                          int64_t tokens, int64_t keys, int64_t heads, int64_t kv_heads, int64_t head_dim,
                          int64_t q_stride, int64_t kv_stride, int64_t out_stride, int64_t type, int64_t stream) {
  using namespace pi0;
  if (batch < 0 || tokens < 0 || keys < 1 || kv_heads < 1 || heads % kv_heads || q_stride % 8 || kv_stride % 8 ||
      out_stride % 2 || (head_dim != 32 && head_dim != 72 && head_dim != 256))
    return cudaErrorInvalidValue;
  const auto sizes = attention_sizes(tokens, keys, heads / kv_heads, seen, head_dim, q_stride, kv_stride, out_stride);
  return with_16_bit_type(type, [&](auto *none) {
    using T = std::remove_pointer_t<decltype(none)>;
    const auto run = [&](auto launch_it) {
      return launch_it(static_cast<const T *>(q), static_cast<const T *>(k), static_cast<const T *>(v),
                       static_cast<T *>(out), batch, kv_heads, sizes, stream, Own<T>{});
    };
    // Vision: blocks of 64 queries. Few queries: blocks of 32, the keys split in four. Many: 64, split in two.
    if (head_dim == 72) return run(launch_attention<72, 4, 1, false, T>);
    if (tokens * sizes.group <= 1024)
      return head_dim == 32 ? run(launch_attention<32, 2, 4, false, T>) : run(launch_attention<256, 2, 4, false, T>);
    return head_dim == 32 ? run(launch_attention<32, 4, 2, false, T>) : run(launch_attention<256, 4, 2, false, T>);
  });
}

PI0_API int pi0_rope_attention(const void *qkv, const float *table, void *keys, void *values, const int *seen,
                               const void *next, const void *after_next, void *out, int64_t tokens, int64_t kept,
                               int64_t cached, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t next_bytes,
                               int64_t after_next_bytes, int64_t type, int64_t stream) {
  using namespace pi0;
  if (tokens < 0 || kept < 0 || kept > tokens || cached < 0 || kv_heads < 1 || heads % kv_heads || next_bytes < 0 ||
      after_next_bytes < 0 || (head_dim != 32 && head_dim != 256))
    return cudaErrorInvalidValue;
  const int stride = static_cast<int>((heads + 2 * kv_heads) * head_dim);
  const auto sizes = attention_sizes(tokens, cached + tokens, heads / kv_heads, seen, head_dim, stride,
                                     kv_heads * head_dim, heads * head_dim);
  return with_16_bit_type(type, [&](auto *none) {
    using T = std::remove_pointer_t<decltype(none)>;
    const auto *q = static_cast<const T *>(qkv);
    auto *cached_keys = static_cast<T *>(keys), *cached_values = static_cast<T *>(values);
    const Own<T> own{q + heads * head_dim,
                     q + (heads + kv_heads) * head_dim,
                     table,
                     stride,
                     static_cast<int>(kept),
                     cached_keys,
                     cached_values,
                     {ahead_of(next, next_bytes), ahead_of(after_next, after_next_bytes)}};
    const auto run = [&](auto launch_it) {
      return launch_it(q, cached_keys, cached_values, static_cast<T *>(out), 1, kv_heads, sizes, stream, own);
    };
    return head_dim == 32 ? run(launch_attention<32, 2, 4, true, T>) : run(launch_attention<256, 2, 4, true, T>);
  });
}

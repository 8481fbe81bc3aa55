// Rotary positions for the queries and keys of a fused QKV projection; keys and values go to their rows of the cache.
//
// One block per token. A thread takes eight neighbours of the first half of a head and the eight that are paired with
// them in the second half: base 10000, half-split, as Gemma has it.
#include "device.cuh"

namespace pi0 {

constexpr int rope_items = 8;

template <class T>
__global__ void __launch_bounds__(1024)
rope_kernel(const T *qkv, const float *table, T *q, T *keys, T *values, int heads, int kv_heads, int head_dim,
            int first_row) {
  using Items = Vector<T, rope_items>;
  const int token = blockIdx.x, half = head_dim / 2, per_head = half / rope_items;
  const int head = threadIdx.x / per_head, column = threadIdx.x % per_head * rope_items;
  if (head >= heads + 2 * kv_heads) return;
  const int64_t row = first_row + token;
  const T *from = qkv + (static_cast<int64_t>(token) * (heads + 2 * kv_heads) + head) * head_dim + column;
  T *to = head < heads ? q + (static_cast<int64_t>(token) * heads + head) * head_dim
          : head < heads + kv_heads ? keys + (row * kv_heads + head - heads) * head_dim
                                    : values + (row * kv_heads + head - heads - kv_heads) * head_dim;
  Items first = *reinterpret_cast<const Items *>(from), second = *reinterpret_cast<const Items *>(from + half);
  if (head < heads + kv_heads) {
    const float *cosine = table + row * head_dim + column, *sine = cosine + half;
    for (int i = 0; i < rope_items; i++) {
      const float a = to_float(first.at[i]), b = to_float(second.at[i]);
      first.at[i] = from_float<T>(a * cosine[i] - b * sine[i]);
      second.at[i] = from_float<T>(b * cosine[i] + a * sine[i]);
    }
  }
  *reinterpret_cast<Items *>(to + column) = first;
  *reinterpret_cast<Items *>(to + half + column) = second;
}

}  // namespace pi0

PI0_API int pi0_rope(const void *qkv, const float *table, void *q, void *keys, void *values, int64_t tokens,
                     int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t first_row, int64_t type,
                     int64_t stream) {
  using namespace pi0;
  const int64_t threads = (heads + 2 * kv_heads) * head_dim / 2 / rope_items;
  if (tokens < 0 || first_row < 0 || head_dim % (2 * rope_items) || threads < 1 || threads > 1024)
    return cudaErrorInvalidValue;
  return with_16_bit_type(type, [&](auto *none) {
    using T = std::remove_pointer_t<decltype(none)>;
    return launch(rope_kernel<T>, dim3(tokens), dim3(divide_up(threads, warp_size) * warp_size), 0, stream,
                  static_cast<const T *>(qkv), table, static_cast<T *>(q), static_cast<T *>(keys),
                  static_cast<T *>(values), heads, kv_heads, head_dim, first_row);
  });
}

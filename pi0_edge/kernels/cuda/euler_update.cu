// The back of an Euler step: final norm, action_out_proj, x ← x + dt · v, all in float32.
//
// A block takes four tokens, so that each row of the projection is read once for four of them: one warp per token
// normalizes it into shared memory, then all warps share the action dimensions. Frozen actions stay (`frozen_rows.cuh`).
#include "frozen_rows.cuh"

namespace pi0 {

constexpr int update_tokens = 4, update_warps = 8, update_items = 4;

template <class In>
__global__ void __launch_bounds__(update_warps *warp_size)
euler_update_kernel(const In *hidden, const int *frozen, const float *scale, const float *shift, const float *weight,
                    const float *bias, float *x, int tokens, int width, int action_dim, float dt, float epsilon) {
  float *normed = &shared_memory<float>();
  const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  const int first = lane * update_items, stride = warp_size * update_items;
  using Loaded = Vector<In, update_items>;
  using Items = Vector<float, update_items>;

  if (warp < update_tokens) {
    const int token = blockIdx.x * update_tokens + warp;
    const In *row = hidden + static_cast<int64_t>(token < tokens ? token : 0) * width;
    float squares = 0.0f;
    for (int column = first; column < width; column += stride) {
      const auto loaded = *reinterpret_cast<const Loaded *>(row + column);
      for (int i = 0; i < update_items; i++) squares += to_float(loaded.at[i]) * to_float(loaded.at[i]);
    }
    const float normalizer = rsqrtf(warp_sum(squares) / width + epsilon);
    for (int column = first; column < width; column += stride) {
      const auto loaded = *reinterpret_cast<const Loaded *>(row + column);
      for (int i = 0; i < update_items; i++) {
        float y = to_float(loaded.at[i]) * normalizer;
        if (scale) y *= scale[column + i];
        if (shift) y += shift[column + i];
        normed[warp * width + column + i] = y;
      }
    }
  }
  __syncthreads();

  const int still = frozen_rows(frozen);
  for (int action = warp; action < action_dim; action += update_warps) {
    float sums[update_tokens] = {};
    for (int column = first; column < width; column += stride) {
      const auto w = *reinterpret_cast<const Items *>(weight + static_cast<int64_t>(action) * width + column);
      #pragma unroll
      for (int token = 0; token < update_tokens; token++) {
        const auto y = *reinterpret_cast<const Items *>(normed + token * width + column);
        for (int i = 0; i < update_items; i++) sums[token] += w.at[i] * y.at[i];
      }
    }
    #pragma unroll
    for (int i = 0; i < update_tokens; i++) {
      const float velocity = warp_sum(sums[i]) + bias[action];
      const int token = blockIdx.x * update_tokens + i;
      if (lane == 0 && token >= still && token < tokens) x[token * action_dim + action] += dt * velocity;
    }
  }
}

}  // namespace pi0

PI0_API int pi0_euler_update(const void *hidden, const int *frozen, const float *scale, const float *shift,
                             const float *weight, const float *bias, float *x, int64_t tokens, int64_t width,
                             int64_t action_dim, float dt, float epsilon, int64_t type, int64_t stream) {
  using namespace pi0;
  if (tokens < 0 || width < update_items || width % update_items || width > 2048 || action_dim < 1)
    return cudaErrorInvalidValue;
  auto run = [&](auto *from) {
    using In = std::remove_const_t<std::remove_pointer_t<decltype(from)>>;
    return launch(euler_update_kernel<In>, dim3(divide_up(tokens, update_tokens)), dim3(update_warps * warp_size),
                  sizeof(float) * update_tokens * width, stream, from, frozen, scale, shift, weight, bias, x, tokens, width,
                  action_dim, dt, epsilon);
  };
  if (type == PI0_FP32) return run(static_cast<const float *>(hidden));
  return with_16_bit_type(type, [&](auto *none) {
    return run(static_cast<std::remove_pointer_t<decltype(none)> const *>(hidden));
  });
}

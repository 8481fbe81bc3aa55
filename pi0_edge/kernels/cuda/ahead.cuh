// What the next kernels read from memory, asked of the L2 cache while this kernel leaves memory idle.
#pragma once

#include "device.cuh"

namespace pi0 {

struct Ahead {
  const char *from;
  int lines;

  // The share of one thread among `threads` that ask.
  __device__ __forceinline__ void ask(int thread, int threads) const {
    for (int line = thread; line < lines; line += threads) prefetch_l2(from + static_cast<int64_t>(line) * l2_line);
  }
};

inline Ahead ahead_of(const void *from, int64_t bytes) { return {static_cast<const char *>(from), divide_up(bytes, l2_line)}; }

}  // namespace pi0

// Chunks that continue another one: their first `*frozen` actions are given, and the network sees those at time 0.
//
// A vector that depends on time is then two, one after the other: of this step, and of time 0. Null: nothing is frozen,
// and there is one. The count is in memory because a graph that was captured once serves every count.
#pragma once

#include "device.cuh"

namespace pi0 {

__device__ __forceinline__ int frozen_rows(const int *frozen) { return frozen ? *frozen : 0; }

}  // namespace pi0

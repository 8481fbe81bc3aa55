// A GPU made of one CPU thread: the vocabulary of device.cuh, so that tests run the kernels where there is no GPU.
//
// Every CUDA thread is a coroutine. Blocks run one after the other; within a block, threads run until they meet a
// barrier or a warp-wide function, in an order that the test chooses, so that a missing barrier shows as a result that
// depends on the order: side by side, or one warp as far ahead of the others as it can get. Shared memory starts as NaN.
// Asynchronous copies happen as late as they may, when they are waited for, or in random order some of them at once.
// What this cannot show is speed, and the exact order of additions inside a tensor core.
#pragma once

#include <setjmp.h>
#include <stdint.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <typeinfo>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorLaunchFailure = 719 };

inline const char *cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : error == cudaErrorInvalidValue ? "invalid argument" : "launch failure";
}
inline cudaError_t cudaGetDeviceCount(int *count) { return *count = 1, cudaSuccess; }
inline cudaError_t cudaGetDevice(int *device) { return *device = 0, cudaSuccess; }
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };
namespace pi0_emulation {
inline int shared_memory_per_block = 166912;  // of Orin, until a test asks for another GPU
}
inline cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr, int) {
  return *value = pi0_emulation::shared_memory_per_block, cudaSuccess;
}

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(4) char4 { signed char x, y, z, w; };

// Number types

struct __nv_bfloat16 { uint16_t bits; };
struct __half { uint16_t bits; };

inline float __bfloat162float(__nv_bfloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  return memcpy(&value, &bits, 4), value;
}
inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  if (std::isnan(value)) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
inline float __half2float(__half x) {
  _Float16 value;
  return memcpy(&value, &x.bits, 2), static_cast<float>(value);
}
inline __half __float2half_rn(float value) {
  const auto narrow = static_cast<_Float16>(value);
  __half x;
  return memcpy(&x.bits, &narrow, 2), x;
}
inline int __float2int_rn(float x) { return static_cast<int>(lrintf(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __uint_as_float(unsigned bits) { float x; return memcpy(&x, &bits, 4), x; }
inline unsigned __float_as_uint(float x) { unsigned bits; return memcpy(&bits, &x, 4), bits; }
template <class T> inline T __ldg(const T *x) { return *x; }
using std::max;
using std::min;

// Coroutines

namespace pi0_emulation {

constexpr size_t stack_bytes = 256 * 1024;
constexpr size_t shared_bytes = 163 * 1024;  // what a block of Orin may have

enum class State { ready, in_warp, at_barrier, done };
struct Copy { void *to; const void *from; bool valid; };

struct Warp {
  unsigned arrived = 0;
  const std::type_info *function = nullptr;
  const void *inputs[32];
  void *outputs[32];
};

struct Thread {
  State state;
  bool started;
  ucontext_t start;
  jmp_buf resume;
  std::unique_ptr<char[]> stack{new char[stack_bytes]};
  dim3 index;
  unsigned number;  // in the block
  std::deque<std::vector<Copy>> groups;
  std::vector<Copy> uncommitted;
};

struct Launch { std::string kernel; dim3 grid, block; size_t shared; };

struct Block {
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<Warp> warps;
  std::function<void()> body;
  alignas(128) unsigned char shared[shared_bytes];
  bool failed = false;
};

inline Block block;
inline Thread *current = nullptr;
inline jmp_buf scheduler;
inline unsigned order_seed = 0;         // of the order of blocks and threads; 0: ascending
inline std::minstd_rand chance;
inline int64_t bank_conflicts = 0;      // of load_matrices, rows that had to wait for another of the same eight
inline bool only_record = false;        // launches are recorded and not run
// Runs a kernel, given by its mangled name, as a compiler made it; null: the source is run. See ptx/machine.cpp.
inline cudaError_t (*instead_of_source)(const std::string &kernel, dim3 grid, dim3 block, size_t shared,
                                        const void *const *parameters) = nullptr;
inline std::vector<Launch> launches;

inline void fail(const char *why) {
  fprintf(stderr, "emulated GPU: block (%u, %u, %u), thread (%u, %u, %u): %s\n", blockIdx.x, blockIdx.y, blockIdx.z,
          threadIdx.x, threadIdx.y, threadIdx.z, why);
  block.failed = true;
}

inline void wait(State state) {
  current->state = state;
  if (!_setjmp(current->resume)) _longjmp(scheduler, 1);
}

inline void enter() {
  block.body();
  current->state = State::done;
  _longjmp(scheduler, 1);
}

inline void run(Thread &thread) {
  current = &thread;
  threadIdx = thread.index;
  if (_setjmp(scheduler)) return;
  if (thread.started) _longjmp(thread.resume, 1);
  thread.started = true;
  setcontext(&thread.start);
}

inline void prepare(Thread &thread, unsigned number, dim3 size) {
  thread.state = State::ready;
  thread.started = false;
  thread.index = dim3(number % size.x, number / size.x % size.y, number / size.x / size.y);
  thread.number = number;
  thread.groups.clear();
  thread.uncommitted.clear();
  getcontext(&thread.start);
  thread.start.uc_stack.ss_sp = thread.stack.get();
  thread.start.uc_stack.ss_size = stack_bytes;
  makecontext(&thread.start, enter, 0);
}

// Runs every warp until its threads are done or wait for other warps, then opens the barrier if all wait at it.
inline void run_block(dim3 size) {
  const unsigned count = size.x * size.y * size.z;
  while (block.threads.size() < count) block.threads.push_back(std::make_unique<Thread>());
  block.warps.assign(count / 32, Warp{});
  memset(block.shared, 0xff, shared_bytes);
  for (unsigned i = 0; i < count; i++) prepare(*block.threads[i], i, size);

  std::vector<unsigned> warps(count / 32), lanes(32);
  for (unsigned i = 0; i < warps.size(); i++) warps[i] = i;
  for (unsigned i = 0; i < 32; i++) lanes[i] = i;
  for (bool progress = true; progress && !block.failed;) {
    if (order_seed) std::shuffle(warps.begin(), warps.end(), chance);
    progress = false;
    bool all_done = true, barrier_reached = true;
    for (const unsigned warp : warps)
      for (bool ran = true; ran;) {
        if (order_seed) std::shuffle(lanes.begin(), lanes.end(), chance);
        ran = false;
        for (const unsigned lane : lanes) {
          Thread &thread = *block.threads[warp * 32 + lane];
          if (thread.state == State::ready) run(thread), ran = progress = true;
        }
        ran &= order_seed != 0;  // in random order, a warp gets as far as it can before the next one
      }
    for (unsigned i = 0; i < count; i++) {
      const State state = block.threads[i]->state;
      all_done &= state == State::done;
      barrier_reached &= state == State::done || state == State::at_barrier;
    }
    if (all_done) return;
    if (!barrier_reached) continue;
    for (unsigned i = 0; i < count; i++)
      if (block.threads[i]->state == State::at_barrier) block.threads[i]->state = State::ready;
  }
  if (!block.failed) fail("threads wait for others that never come: a barrier or warp-wide function in a branch");
}

// Gathers the arguments of a whole warp, lets the last thread to arrive compute, and hands every lane its result.
template <class Output, class Input, class Function> Output whole_warp(const Input &input, Function function) {
  Warp &warp = block.warps[current->number / 32];
  const unsigned lane = current->number % 32, first = current->number - lane;
  Output output;
  if (warp.arrived == 0) warp.function = &typeid(Function);
  if (*warp.function != typeid(Function)) fail("threads of one warp are in different warp-wide functions");
  warp.inputs[lane] = &input;
  warp.outputs[lane] = &output;
  if (++warp.arrived < 32) {
    wait(State::in_warp);
    return output;
  }
  warp.arrived = 0;
  function([&](unsigned i) -> const Input & { return *static_cast<const Input *>(warp.inputs[i]); },
           [&](unsigned i) -> Output & { return *static_cast<Output *>(warp.outputs[i]); });
  for (unsigned i = 0; i < 32; i++) block.threads[first + i]->state = State::ready;
  return output;
}

}  // namespace pi0_emulation

inline void __syncthreads() { pi0_emulation::wait(pi0_emulation::State::at_barrier); }
inline void __syncwarp() {
  pi0_emulation::whole_warp<int>(0, [](auto, auto) {});
}
inline void __threadfence() {}

template <class T> T __shfl_xor_sync(unsigned, T value, int mask) {
  return pi0_emulation::whole_warp<T>(std::make_pair(value, mask), [](auto input, auto output) {
    for (unsigned i = 0; i < 32; i++) output(i) = input(i ^ static_cast<unsigned>(input(i).second)).first;
  });
}
template <class T> T __shfl_sync(unsigned, T value, int lane) {
  return pi0_emulation::whole_warp<T>(std::make_pair(value, lane), [](auto input, auto output) {
    for (unsigned i = 0; i < 32; i++) output(i) = input(static_cast<unsigned>(input(i).second) % 32).first;
  });
}
template <class T> T atomicAdd(T *at, T value) {
  const T before = *at;
  return *at += value, before;
}

namespace pi0 {

inline float max_or_nan(float a, float b) { return std::isnan(a) || a > b ? a : b; }

template <class T> T &shared_memory() { return *reinterpret_cast<T *>(pi0_emulation::block.shared); }

inline void copy_now(const pi0_emulation::Copy &copy) {
  copy.valid ? memcpy(copy.to, copy.from, 16) : memset(copy.to, 0, 16);
}
inline void copy_async(void *shared, const void *global, bool valid = true) {
  const pi0_emulation::Copy copy{shared, global, valid};
  pi0_emulation::order_seed && pi0_emulation::chance() % 2 ? copy_now(copy)
                                                           : pi0_emulation::current->uncommitted.push_back(copy);
}
inline void prefetch_l2(const void *) {}
inline void commit_copies() {
  auto &thread = *pi0_emulation::current;
  thread.groups.push_back(std::move(thread.uncommitted));
  thread.uncommitted.clear();
}
template <int pending> void wait_for_copies() {
  auto &groups = pi0_emulation::current->groups;
  for (; groups.size() > pending; groups.pop_front())
    for (const auto &copy : groups.front()) copy_now(copy);
}

struct Registers { unsigned at[4]; };

template <bool transposed> void load_matrices_emulated(unsigned (&to)[4], const void *row) {
  const auto loaded = pi0_emulation::whole_warp<Registers>(row, [](auto input, auto output) {
    for (unsigned i = 0; i < 4; i++) {
      unsigned groups = 0;  // of banks, 16 bytes each
      for (unsigned r = 0; r < 8; r++) groups |= 1u << reinterpret_cast<uintptr_t>(input(8 * i + r)) / 16 % 8;
      pi0_emulation::bank_conflicts += 8 - __builtin_popcount(groups);
    }
    for (unsigned lane = 0; lane < 32; lane++)
      for (unsigned i = 0; i < 4; i++) {
        uint16_t pair[2];
        for (unsigned j = 0; j < 2; j++) {
          const unsigned r = transposed ? lane % 4 * 2 + j : lane / 4, c = transposed ? lane / 4 : lane % 4 * 2 + j;
          pair[j] = static_cast<const uint16_t *>(input(8 * i + r))[c];
        }
        memcpy(&output(lane).at[i], pair, 4);
      }
  });
  std::copy(loaded.at, loaded.at + 4, to);
}
inline void load_matrices(unsigned (&to)[4], const void *row) { load_matrices_emulated<false>(to, row); }
inline void load_matrices_transposed(unsigned (&to)[4], const void *row) { load_matrices_emulated<true>(to, row); }

inline double number(__nv_bfloat16 x) { return __bfloat162float(x); }
inline double number(__half x) { return __half2float(x); }
inline int number(int8_t x) { return x; }

template <class Sum> struct Fragments { unsigned a[4], b[2]; Sum sums[4]; };
template <class Sum> struct Sums { Sum at[4]; };

// The product of one warp from elements of type T, `16 / sizeof(T)` of which make one row of a quarter of a.
template <class T, class Wide, class Sum>
void multiply_add_emulated(Sum (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  Fragments<Sum> fragments{{a[0], a[1], a[2], a[3]}, {b0, b1}, {sums[0], sums[1], sums[2], sums[3]}};
  const auto result = pi0_emulation::whole_warp<Sums<Sum>>(fragments, [](auto input, auto output) {
    constexpr unsigned pack = 4 / sizeof(T), half = 4 * pack;
    Wide a[16][2 * half], b[8][2 * half];
    for (unsigned lane = 0; lane < 32; lane++)
      for (unsigned i = 0; i < 4; i++) {
        T values[pack];
        const unsigned column = i / 2 * half + lane % 4 * pack;
        memcpy(values, &input(lane).a[i], 4);
        for (unsigned j = 0; j < pack; j++) a[lane / 4 + i % 2 * 8][column + j] = number(values[j]);
        if (i >= 2) continue;
        memcpy(values, &input(lane).b[i], 4);
        for (unsigned j = 0; j < pack; j++) b[lane / 4][i * half + lane % 4 * pack + j] = number(values[j]);
      }
    for (unsigned lane = 0; lane < 32; lane++)
      for (unsigned i = 0; i < 4; i++) {
        Wide sum = 0;
        for (unsigned k = 0; k < 2 * half; k++) sum += a[lane / 4 + i / 2 * 8][k] * b[lane % 4 * 2 + i % 2][k];
        output(lane).at[i] = static_cast<Sum>(input(lane).sums[i] + sum);
      }
  });
  std::copy(result.at, result.at + 4, sums);
}
template <class T> void multiply_add(float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  multiply_add_emulated<T, double>(sums, a, b0, b1);
}
inline void multiply_add(int (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  multiply_add_emulated<int8_t, int>(sums, a, b0, b1);
}

std::string kernel_name(const void *kernel);

template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared, int64_t, Arguments... arguments) {
  namespace gpu = pi0_emulation;
  if (grid.x * grid.y * grid.z == 0) return cudaSuccess;
  gpu::launches.push_back({kernel_name(reinterpret_cast<const void *>(kernel)), grid, block, shared});
  if (block.x * block.y * block.z % 32 || block.x * block.y * block.z > 1024 || shared > gpu::shared_bytes ||
      shared > static_cast<size_t>(gpu::shared_memory_per_block))
    return cudaErrorInvalidValue;
  if (gpu::only_record) return cudaSuccess;
  const auto parameters = std::make_tuple(static_cast<Parameters>(arguments)...);
  if (gpu::instead_of_source) {
    const auto addresses = std::apply([](const auto &...each) { return std::array<const void *, sizeof...(each)>{&each...}; }, parameters);
    return gpu::instead_of_source(gpu::launches.back().kernel, grid, block, shared, addresses.data());
  }
  gpu::block.body = [&] { std::apply(kernel, parameters); };
  gpu::block.failed = false;
  gridDim = grid, blockDim = block;
  std::vector<unsigned> order(grid.x * grid.y * grid.z);
  for (unsigned i = 0; i < order.size(); i++) order[i] = i;
  gpu::chance.seed(gpu::order_seed);
  if (gpu::order_seed) std::shuffle(order.begin(), order.end(), gpu::chance);
  for (const unsigned i : order) {
    blockIdx = dim3(i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y);
    gpu::run_block(block);
    if (gpu::block.failed) return cudaErrorLaunchFailure;
  }
  return cudaSuccess;
}

}  // namespace pi0

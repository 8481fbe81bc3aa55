// A warp while it runs: its registers, the lanes that take part in an instruction, the memory of its block.
#pragma once

#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#include "program.h"
#include "shared_memory.h"
#include "stores.h"

namespace pi0_ptx {

// What a launch gives all its threads.
struct Launch {
  const Kernel *kernel;
  const void *const *parameters;
  std::array<unsigned, 3> grid, block;
};

// An asynchronous copy that has not been waited for.
struct Copy {
  uint64_t to, from;
  uint32_t bytes;  // that are read; the others of the 16 become zero
};

struct Warp {
  const Launch *launch = nullptr;
  SharedMemory *shared = nullptr;
  Stores *stores = nullptr;
  unsigned number = 0;                    // in its block
  unsigned active = all_lanes;            // the lanes that the current instruction is for
  std::vector<uint32_t> registers;        // [slots, 32]; 64 bits: [slots / 2, 32]
  std::array<uint32_t, lanes> at{};       // the next instruction of each lane
  unsigned running = all_lanes;           // lanes that have not returned
  unsigned waiting = 0;                   // lanes at a barrier or at an instruction of the whole warp
  std::vector<Copy> open[lanes];          // copies of each lane that are not committed yet
  std::vector<std::vector<Copy>> groups[lanes];

  unsigned thread(unsigned lane) const { return number * lanes + lane; }

  template <class T> auto *row(uint32_t slot) {
    if constexpr (sizeof(T) == 8) return reinterpret_cast<uint64_t *>(registers.data() + slot * lanes);
    else return registers.data() + slot * lanes;
  }
};

// The value of T in what a register holds, and the other way round. Narrow signed values fill the register with their sign.
template <class T, class Bits> T value_of(Bits bits) {
  if constexpr (std::is_same_v<T, bool>) {
    return bits != 0;
  } else if constexpr (std::is_integral_v<T>) {
    return static_cast<T>(bits);
  } else {
    T value;
    return memcpy(&value, &bits, sizeof value), value;
  }
}
template <class T> auto bits_of(T value) {
  using Bits = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
  if constexpr (std::is_integral_v<T>) {
    return static_cast<Bits>(value);
  } else {
    Bits bits;
    return memcpy(&bits, &value, sizeof bits), bits;
  }
}

template <class T> constexpr char width = sizeof(T) == 8 ? 'w' : 'n';

// Calls function(lane) for the active lanes; the loop over all of them has no branch.
template <class Function> void each_lane(const Warp &warp, Function function) {
  if (warp.active == all_lanes) {
#pragma GCC ivdep
    for (unsigned lane = 0; lane < lanes; lane++) function(lane);
  } else {
    for (unsigned lane = 0; lane < lanes; lane++)
      if (warp.active >> lane & 1) function(lane);
  }
}

// d = Function()(a, b, ...), of any number of operands.
template <class Function, class D, class... Sources> struct Elementwise {
  template <size_t... i> static void apply(Warp &warp, const Instruction &instruction, std::index_sequence<i...>) {
    auto *to = warp.row<D>(instruction.operand[0]);
    const auto rows = std::make_tuple(warp.row<Sources>(instruction.operand[i + 1])...);
    each_lane(warp, [&](unsigned lane) {
      to[lane] = bits_of<D>(Function()(value_of<Sources>(std::get<i>(rows)[lane])...));
    });
  }
  static void run(Warp &warp, const Instruction &instruction) {
    apply(warp, instruction, std::index_sequence_for<Sources...>());
  }
  static Operation operation() { return {run, {width<D>, width<Sources>...}}; }
};

}  // namespace pi0_ptx

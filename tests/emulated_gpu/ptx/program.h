// PTX as data: what nvcc compiled of a kernel, instruction by instruction, ready to be run by warps (machine.cpp).
//
// A register of PTX is a row of 32 values, one per lane of a warp: one slot where it has up to 32 bits, two where it has 64.
// Constants and special registers (%tid.x) have slots as well, so that every operand is a slot and nothing else.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

namespace pi0_ptx {

constexpr unsigned lanes = 32, all_lanes = 0xffffffffu;

struct Warp;
struct Instruction;

enum class Kind {
  plain,      // each lane for itself
  whole_warp, // all 32 lanes at once, at the same instruction
  barrier,    // bar.sync: all threads of the block
  branch,
  exit,
};

// What an opcode does. `widths` has a letter per operand: 'w' for a register of 64 bits, 'n' for a narrower one.
struct Operation {
  void (*run)(Warp &, const Instruction &);
  std::string widths;
  Kind kind = Kind::plain;
};

// Every opcode that is known, by its name in PTX.
const std::unordered_map<std::string, Operation> &operations();

struct Instruction {
  void (*run)(Warp &, const Instruction &) = nullptr;
  Kind kind = Kind::plain;
  bool guarded = false, guard_is = true;  // runs in the lanes whose `guard` is `guard_is`
  uint32_t guard = 0;
  std::array<uint32_t, 14> operand{};     // slots, in the order of PTX, vectors taken apart
  int64_t offset = 0;                     // of the address, in bytes
  uint32_t target = 0;                    // of a branch: number of an instruction
  uint32_t place = 0;                     // in `Kernel::places`
};

struct Constant {
  uint32_t slot;
  uint64_t value;
  bool wide;
};

enum class Special { tid_x, tid_y, tid_z, ntid_x, ntid_y, ntid_z, ctaid_x, ctaid_y, ctaid_z, nctaid_x, nctaid_y, nctaid_z, laneid };

struct Kernel {
  std::string name;  // mangled
  std::vector<Instruction> code;
  std::vector<std::string> text;    // of each instruction, as in PTX
  std::vector<std::string> places;  // in the CUDA sources: "gemm_bytes.cuh:85"
  std::vector<Constant> constants;
  std::map<Special, uint32_t> specials;  // the slot of each
  uint32_t slots = 0;
};

// The kernels of one file of PTX.
//
// Throws std::runtime_error, naming the line, where something is not understood: an instruction that is skipped would make
// every result worthless.
std::vector<Kernel> parse(const std::string &ptx);

}  // namespace pi0_ptx

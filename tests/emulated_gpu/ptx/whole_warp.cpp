// Instructions that a warp does as a whole: shuffle, ldmatrix, mma (PTX ISA, chapters 9.7.8 and 9.7.14).
//
// The machine calls them when all 32 lanes have come to the same one.
#include "device.cuh"
#include "numbers.h"
#include "operations.h"
#include "warp.h"

namespace pi0_ptx {
namespace {

// shfl.sync.bfly d, a, b, c, members: lane i receives a of lane i ^ b.
void shuffle(Warp &warp, const Instruction &i) {
  auto *to = warp.row<uint32_t>(i.operand[0]);
  const auto *from = warp.row<uint32_t>(i.operand[1]), *by = warp.row<uint32_t>(i.operand[2]);
  const auto *clamp = warp.row<uint32_t>(i.operand[3]), *members = warp.row<uint32_t>(i.operand[4]);
  uint32_t before[lanes];
  memcpy(before, from, sizeof before);
  for (unsigned lane = 0; lane < lanes; lane++) {
    if (clamp[lane] != lanes - 1 || members[lane] != all_lanes) found("shuffle within a part of a warp, which is not known", lane);
    to[lane] = before[(lane ^ by[lane]) % lanes];
  }
}

// Lane 8 i + r gives the address of row r of matrix i; lane t receives of each matrix the pair of elements in row t / 4
// and columns 2 (t % 4) and 2 (t % 4) + 1, or, transposed, in these rows and that column.
template <bool transposed> void load_matrices(Warp &warp, const Instruction &i) {
  uint16_t matrix[4][8][8];
  const auto *address = warp.row<uint32_t>(i.operand[4]);
  for (unsigned m = 0; m < 4; m++) {
    unsigned banks = 0;  // groups of banks, 16 bytes each; two rows in one of them take turns
    for (unsigned r = 0; r < 8; r++) banks |= 1u << (address[8 * m + r] + i.offset) / 16 % 8;
    pi0_emulation::bank_conflicts += 8 - __builtin_popcount(banks);
  }
  for (unsigned lane = 0; lane < lanes; lane++)
    memcpy(matrix[lane / 8][lane % 8],
           warp.shared->read(static_cast<uint32_t>(address[lane] + i.offset), 16, warp.thread(lane)), 16);
  for (unsigned m = 0; m < 4; m++) {
    auto *to = warp.row<uint32_t>(i.operand[m]);
    for (unsigned lane = 0; lane < lanes; lane++) {
      const unsigned row = lane / 4, column = lane % 4 * 2;
      const uint16_t low = transposed ? matrix[m][column][row] : matrix[m][row][column];
      const uint16_t high = transposed ? matrix[m][column + 1][row] : matrix[m][row][column + 1];
      to[lane] = static_cast<uint32_t>(high) << 16 | low;
    }
  }
}

// The element types of a product: one element from its bits, and the type in which products are added exactly.
struct Int8 {
  using Bits = uint8_t;
  using Wide = int32_t;
  static Wide number(Bits bits) { return static_cast<int8_t>(bits); }
};
struct Bf16 {
  using Bits = uint16_t;
  using Wide = double;
  static Wide number(Bits bits) { return from_bf16(bits); }
};
struct Fp16 {
  using Bits = uint16_t;
  using Wide = double;
  static Wide number(Bits bits) { return from_fp16(bits); }
};
struct E4m3 {
  using Bits = uint8_t;
  using Wide = double;
  static Wide number(Bits bits) { return from_e4m3(bits); }
};

// mma.m16n8k(32 / bytes): d = a · b + c, with the fragments of the manual. Lane l is thread t = l % 4 of group g = l / 4.
//
//   a, row major    registers 0 and 2: row g, 1 and 3: row g + 8; 0 and 1: the first half of the columns, 2 and 3: the second
//   b, column major registers 0: the first half of the rows, 1: the second; column g
//   c and d         elements 0, 1: row g, 2, 3: row g + 8; columns 2 t and 2 t + 1
//
// A register holds 4 / bytes neighbours along k, the first of which is t * (4 / bytes).
template <class Element, class Sum> void multiply(Warp &warp, const Instruction &i) {
  using Wide = typename Element::Wide;
  using Bits = typename Element::Bits;
  constexpr unsigned packed = 4 / sizeof(Bits), half = 4 * packed, depth = 2 * half;
  Wide a[16][depth], b[depth][8];
  const auto unpack = [](uint32_t word, unsigned p) {
    return Element::number(static_cast<Bits>(word >> 8 * sizeof(Bits) * p));
  };
  for (unsigned r = 0; r < 4; r++) {
    const auto *from = warp.row<uint32_t>(i.operand[4 + r]);
    for (unsigned lane = 0; lane < lanes; lane++)
      for (unsigned p = 0; p < packed; p++)
        a[lane / 4 + r % 2 * 8][r / 2 * half + lane % 4 * packed + p] = unpack(from[lane], p);
  }
  for (unsigned r = 0; r < 2; r++) {
    const auto *from = warp.row<uint32_t>(i.operand[8 + r]);
    for (unsigned lane = 0; lane < lanes; lane++)
      for (unsigned p = 0; p < packed; p++) b[r * half + lane % 4 * packed + p][lane / 4] = unpack(from[lane], p);
  }
  Wide sums[16][8] = {};
  for (unsigned row = 0; row < 16; row++)
    for (unsigned k = 0; k < depth; k++)
      for (unsigned column = 0; column < 8; column++) sums[row][column] += a[row][k] * b[k][column];
  for (unsigned e = 0; e < 4; e++) {
    auto *to = warp.row<Sum>(i.operand[e]);
    const auto *before = warp.row<Sum>(i.operand[10 + e]);
    for (unsigned lane = 0; lane < lanes; lane++) {
      const Wide sum = sums[lane / 4 + e / 2 * 8][lane % 4 * 2 + e % 2];
      if constexpr (std::is_integral_v<Sum>) to[lane] = before[lane] + static_cast<uint32_t>(sum);
      else to[lane] = bits_of<Sum>(static_cast<Sum>(value_of<Sum>(before[lane]) + sum));
    }
  }
}

}  // namespace

void add_whole_warp(Operations &all) {
  all["shfl.sync.bfly.b32"] = {shuffle, "nnnnn", Kind::whole_warp};
  all["ldmatrix.sync.aligned.m8n8.x4.shared.b16"] = {load_matrices<false>, "nnnnn", Kind::whole_warp};
  all["ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16"] = {load_matrices<true>, "nnnnn", Kind::whole_warp};
  const std::string fragments(14, 'n');
  const auto add_product = [&](const std::string &name, auto run) { all["mma.sync.aligned." + name] = {run, fragments, Kind::whole_warp}; };
  add_product("m16n8k16.row.col.f32.bf16.bf16.f32", multiply<Bf16, float>);
  add_product("m16n8k16.row.col.f32.f16.f16.f32", multiply<Fp16, float>);
  add_product("m16n8k32.row.col.s32.s8.s8.s32", multiply<Int8, int32_t>);
  add_product("m16n8k32.row.col.f32.e4m3.e4m3.f32", multiply<E4m3, float>);
  all["bar.sync"] = {nullptr, "n", Kind::barrier};
  all["bra"] = all["bra.uni"] = {nullptr, "", Kind::branch};
  all["ret"] = all["exit"] = {nullptr, "", Kind::exit};
}

}  // namespace pi0_ptx

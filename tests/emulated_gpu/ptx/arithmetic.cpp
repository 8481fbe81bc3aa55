// Instructions that every lane does for itself, in registers (PTX ISA, chapter 9.7).
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "numbers.h"
#include "operations.h"
#include "warp.h"

namespace pi0_ptx {
namespace {

using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using s16 = int16_t;
using s32 = int32_t;
using s64 = int64_t;

// Function objects: what an instruction makes of its sources.

struct Same { template <class T> T operator()(T x) const { return x; } };
struct Add { template <class T> T operator()(T x, T y) const { return static_cast<T>(x + y); } };
struct Subtract { template <class T> T operator()(T x, T y) const { return static_cast<T>(x - y); } };
struct Negate { template <class T> T operator()(T x) const { return static_cast<T>(-x); } };
struct Absolute { float operator()(float x) const { return fabsf(x); } };
struct And { template <class T> T operator()(T x, T y) const { return static_cast<T>(x & y); } };
struct Or { template <class T> T operator()(T x, T y) const { return static_cast<T>(x | y); } };
struct ExclusiveOr { template <class T> T operator()(T x, T y) const { return static_cast<T>(x ^ y); } };
struct Not { template <class T> T operator()(T x) const { return static_cast<T>(~x); } };
struct NotPredicate { bool operator()(bool x) const { return !x; } };

// The low half of a product; of 16 bits in int, where they would overflow.
struct MultiplyLow {
  template <class T> T operator()(T x, T y) const { return static_cast<T>(static_cast<u64>(x) * static_cast<u64>(y)); }
};
struct Multiply { float operator()(float x, float y) const { return x * y; } };
struct MultiplyHigh { s32 operator()(s32 x, s32 y) const { return static_cast<s32>(static_cast<s64>(x) * y >> 32); } };
struct MultiplyAdd { u32 operator()(u32 x, u32 y, u32 z) const { return x * y + z; } };
struct FusedMultiplyAdd { float operator()(float x, float y, float z) const { return fmaf(x, y, z); } };

// A product and a sum for a format of at most 16 bits, in float so that rounding it again rounds the exact result once:
// to odd, which goes to the neighbour with the last bit set wherever the result is not exact. In float alone a result
// beside the middle of two numbers would first become the middle, and then go to the wrong one.
template <class To, class From> To to_odd(From value, bool more, bool less) {
  const To near = static_cast<To>(value);
  if (value > near) more = true, less = false;
  if (value < near) less = true, more = false;
  std::conditional_t<sizeof(To) == 8, u64, u32> bits;
  memcpy(&bits, &near, sizeof bits);
  if (!(more || less) || std::isnan(near) || (bits & 1)) return near;
  constexpr To end = std::numeric_limits<To>::infinity();
  return std::nextafter(near, more ? end : -end);
}
struct FusedMultiplyAddToOdd {
  float operator()(float x, float y, float z) const {
    const double product = static_cast<double>(x) * y, sum = product + z;  // 16 bits: the product is exact
    if (!std::isfinite(sum)) return static_cast<float>(sum);
    const double of_z = sum - product, lost = (product - (sum - of_z)) + (z - of_z);  // what the sum left out, exactly
    return to_odd<float>(to_odd<double>(sum, lost > 0, lost < 0), false, false);
  }
};
template <class Wide> struct MultiplyWide {
  template <class T> Wide operator()(T x, T y) const { return static_cast<Wide>(x) * static_cast<Wide>(y); }
};
struct Divide {
  float operator()(float x, float y) const { return x / y; }
  template <class T> T operator()(T x, T y) const { return y ? static_cast<T>(x / y) : static_cast<T>(-1); }  // unspecified
};
struct Remainder { template <class T> T operator()(T x, T y) const { return y ? static_cast<T>(x % y) : x; } };
struct ShiftLeft {
  template <class T> T operator()(T x, u32 by) const { return by < 8 * sizeof(T) ? static_cast<T>(x << by) : T(0); }
};
struct ShiftRight {  // a signed number keeps its sign
  template <class T> T operator()(T x, u32 by) const {
    constexpr u32 bits = 8 * sizeof(T);
    if (by < bits) return static_cast<T>(x >> by);
    return std::is_signed_v<T> ? static_cast<T>(x >> (bits - 1)) : T(0);
  }
};
struct Select { template <class T> T operator()(T x, T y, bool first) const { return first ? x : y; } };
struct Smaller { template <class T> T operator()(T x, T y) const { return std::min(x, y); } };
struct Larger { template <class T> T operator()(T x, T y) const { return std::max(x, y); } };
struct SmallerNumber { float operator()(float x, float y) const { return fminf(x, y); } };
struct LargerNumber { float operator()(float x, float y) const { return fmaxf(x, y); } };
struct LargerOrNan {
  float operator()(float x, float y) const { return std::isnan(x) || std::isnan(y) ? float_of(0x7fffffff) : fmaxf(x, y); }
};

// f with its lowest `length` bits put into g at `position`.
struct Insert {
  u32 operator()(u32 f, u32 g, u32 position, u32 length) const {
    position &= 255, length &= 255;
    if (position >= 32) return g;
    const u32 mask = (length >= 32 ? ~0u : (1u << length) - 1) << position;
    return (g & ~mask) | (f << position & mask);
  }
};

// Each of four digits chooses one of eight bytes, or, with 8 added, its sign eight times.
struct Permute {
  u32 operator()(u32 low, u32 high, u32 selector) const {
    const u64 bytes = static_cast<u64>(high) << 32 | low;
    u32 result = 0;
    for (int i = 0; i < 4; i++) {
      const u32 digit = selector >> 4 * i & 15, byte = bytes >> 8 * (digit & 7) & 255;
      result |= (digit & 8 ? (byte & 128 ? 255 : 0) : byte) << 8 * i;
    }
    return result;
  }
};

struct Exponential { float operator()(float x) const { return exp2f(x); } };
struct InverseRoot { float operator()(float x) const { return 1.0f / sqrtf(x); } };

// Comparisons; those for unordered values are true where one is NaN.
struct Equal { template <class T> bool operator()(T x, T y) const { return x == y; } };
struct NotEqual {
  template <class T> bool operator()(T x, T y) const { return x != y && x == x && y == y; }
};
struct Less { template <class T> bool operator()(T x, T y) const { return x < y; } };
struct LessEqual { template <class T> bool operator()(T x, T y) const { return x <= y; } };
struct Greater { template <class T> bool operator()(T x, T y) const { return x > y; } };
struct GreaterEqual { template <class T> bool operator()(T x, T y) const { return x >= y; } };
template <class Opposite> struct Unordered {
  bool operator()(float x, float y) const { return !Opposite()(x, y); }
};

// Conversions

template <class To> struct Convert { template <class T> To operator()(T x) const { return static_cast<To>(x); } };
struct RoundToInteger {
  s32 operator()(float x) const {
    if (std::isnan(x)) return 0;
    if (x >= 2147483648.0f) return INT32_MAX;
    return x < -2147483648.0f ? INT32_MIN : static_cast<s32>(rintf(x));
  }
};
struct FromBf16 { float operator()(u16 x) const { return from_bf16(x); } };
struct ToBf16 { u16 operator()(float x) const { return to_bf16(x); } };
struct FromFp16 { float operator()(u16 x) const { return from_fp16(x); } };
struct ToFp16 { u16 operator()(float x) const { return to_fp16(x); } };

// Both halves of 32 bits, each computed in float and rounded. Of one sum, difference or product of two numbers that is
// as if rounded once, since float has at least 2p + 2 bits for the p of bf16 and fp16; of both at once it is not.
template <class Compute, float from(u16), u16 to(float)> struct Pairwise {
  template <class... T> u32 operator()(T... x) const {
    const u16 low = to(Compute()(from(static_cast<u16>(x))...)), high = to(Compute()(from(static_cast<u16>(x >> 16))...));
    return static_cast<u32>(high) << 16 | low;
  }
};

// Moves between a register and a vector of narrower ones.
template <class Part, class Whole> struct Parts {
  static constexpr unsigned count = sizeof(Whole) / sizeof(Part);

  static void pack(Warp &warp, const Instruction &i) {
    auto *to = warp.row<Whole>(i.operand[0]);
    each_lane(warp, [&](unsigned lane) {
      Whole whole = 0;
      for (unsigned p = 0; p < count; p++)
        whole |= static_cast<Whole>(static_cast<Part>(warp.row<Part>(i.operand[1 + p])[lane])) << 8 * sizeof(Part) * p;
      to[lane] = whole;
    });
  }
  static void unpack(Warp &warp, const Instruction &i) {
    const auto *from = warp.row<Whole>(i.operand[count]);
    each_lane(warp, [&](unsigned lane) {
      const Whole whole = static_cast<Whole>(from[lane]);
      for (unsigned p = 0; p < count; p++)
        warp.row<Part>(i.operand[p])[lane] = static_cast<Part>(whole >> 8 * sizeof(Part) * p);
    });
  }
};

template <class Part, class Whole> void add_parts(Operations &all, const std::string &name) {
  const std::string parts(Parts<Part, Whole>::count, 'n');
  all[name + ".pack"] = {Parts<Part, Whole>::pack, width<Whole> + parts};
  all[name + ".unpack"] = {Parts<Part, Whole>::unpack, parts + width<Whole>};
}

template <class F, class T> Operation unary() { return Elementwise<F, T, T>::operation(); }
template <class F, class T> Operation binary() { return Elementwise<F, T, T, T>::operation(); }
template <class F, class T> Operation compare() { return Elementwise<F, bool, T, T>::operation(); }
template <class F, class T> Operation shift() { return Elementwise<F, T, T, u32>::operation(); }
template <class T> Operation select() { return Elementwise<Select, T, T, T, bool>::operation(); }
template <class To, class From> Operation convert() { return Elementwise<Convert<To>, To, From>::operation(); }

// Integers of one size; `u` and `s` are its types.
template <class U, class S> void add_integers(Operations &all, const std::string &bits) {
  for (const std::string& type : {"u" + bits, "s" + bits}) {  // the same bits, whatever the sign
    all["add." + type] = binary<Add, U>();
    all["sub." + type] = binary<Subtract, U>();
    all["mul.lo." + type] = binary<MultiplyLow, U>();
    all["setp.eq." + type] = compare<Equal, U>();
    all["setp.ne." + type] = compare<NotEqual, U>();
    all["mov." + type] = unary<Same, U>();
    all["selp." + type] = select<U>();
  }
  all["mov.b" + bits] = unary<Same, U>();
  all["selp.b" + bits] = select<U>();
  all["setp.eq.b" + bits] = compare<Equal, U>();
  all["setp.ne.b" + bits] = compare<NotEqual, U>();
  all["and.b" + bits] = binary<And, U>();
  all["or.b" + bits] = binary<Or, U>();
  all["xor.b" + bits] = binary<ExclusiveOr, U>();
  all["not.b" + bits] = unary<Not, U>();
  all["neg.s" + bits] = unary<Negate, U>();
  all["shl.b" + bits] = shift<ShiftLeft, U>();
  all["shr.u" + bits] = all["shr.b" + bits] = shift<ShiftRight, U>();
  all["shr.s" + bits] = shift<ShiftRight, S>();
  const auto add_ordered = [&](const std::string &type, auto zero) {
    using T = decltype(zero);
    all["setp.lt." + type] = compare<Less, T>();
    all["setp.le." + type] = compare<LessEqual, T>();
    all["setp.gt." + type] = compare<Greater, T>();
    all["setp.ge." + type] = compare<GreaterEqual, T>();
    all["min." + type] = binary<Smaller, T>();
    all["max." + type] = binary<Larger, T>();
    all["div." + type] = binary<Divide, T>();
    all["rem." + type] = binary<Remainder, T>();
  };
  add_ordered("u" + bits, U());
  add_ordered("s" + bits, S());
}

void add_floats(Operations &all) {
  for (const std::string rounding : {"", ".rn"}) {
    all["add" + rounding + ".f32"] = binary<Add, float>();
    all["sub" + rounding + ".f32"] = binary<Subtract, float>();
    all["mul" + rounding + ".f32"] = binary<Multiply, float>();
  }
  all["fma.rn.f32"] = Elementwise<FusedMultiplyAdd, float, float, float, float>::operation();
  all["div.rn.f32"] = all["div.approx.f32"] = binary<Divide, float>();
  all["neg.f32"] = unary<Negate, float>();
  all["abs.f32"] = unary<Absolute, float>();
  all["min.f32"] = binary<SmallerNumber, float>();
  all["max.f32"] = binary<LargerNumber, float>();
  all["max.NaN.f32"] = binary<LargerOrNan, float>();
  all["ex2.approx.f32"] = all["ex2.approx.ftz.f32"] = unary<Exponential, float>();
  all["rsqrt.approx.f32"] = all["rsqrt.approx.ftz.f32"] = unary<InverseRoot, float>();
  all["mov.f32"] = unary<Same, float>();
  all["selp.f32"] = select<float>();
  all["setp.eq.f32"] = compare<Equal, float>();
  all["setp.ne.f32"] = compare<NotEqual, float>();
  all["setp.lt.f32"] = compare<Less, float>();
  all["setp.le.f32"] = compare<LessEqual, float>();
  all["setp.gt.f32"] = compare<Greater, float>();
  all["setp.ge.f32"] = compare<GreaterEqual, float>();
  all["setp.equ.f32"] = compare<Unordered<NotEqual>, float>();
  all["setp.neu.f32"] = compare<Unordered<Equal>, float>();
  all["setp.ltu.f32"] = compare<Unordered<GreaterEqual>, float>();
  all["setp.leu.f32"] = compare<Unordered<Greater>, float>();
  all["setp.gtu.f32"] = compare<Unordered<LessEqual>, float>();
  all["setp.geu.f32"] = compare<Unordered<Less>, float>();
  using SubtractFp16 = Pairwise<Subtract, from_fp16, to_fp16>;
  using FusedBf16 = Pairwise<FusedMultiplyAddToOdd, from_bf16, to_bf16>;
  all["sub.f16x2"] = all["sub.rn.f16x2"] = binary<SubtractFp16, u32>();
  all["fma.rn.bf16x2"] = Elementwise<FusedBf16, u32, u32, u32, u32>::operation();
  all["mul.bf16x2"] = all["mul.rn.bf16x2"] = binary<Pairwise<Multiply, from_bf16, to_bf16>, u32>();
}

void add_conversions(Operations &all) {
  const auto add_from = [&](const std::string &from, auto zero) {
    using T = decltype(zero);
    all["cvt.s16." + from] = convert<s16, T>();
    all["cvt.u16." + from] = convert<u16, T>();
    all["cvt.s32." + from] = convert<s32, T>();
    all["cvt.u32." + from] = convert<u32, T>();
    all["cvt.s64." + from] = convert<s64, T>();
    all["cvt.u64." + from] = convert<u64, T>();
  };
  add_from("s8", int8_t()), add_from("u8", uint8_t());
  add_from("s16", s16()), add_from("u16", u16()), add_from("s32", s32()), add_from("u32", u32());
  add_from("s64", s64()), add_from("u64", u64());
  all["cvt.rn.f32.s32"] = convert<float, s32>();
  all["cvt.rn.f32.u32"] = convert<float, u32>();
  all["cvt.rni.s32.f32"] = Elementwise<RoundToInteger, s32, float>::operation();
  all["cvt.f32.bf16"] = Elementwise<FromBf16, float, u16>::operation();
  all["cvt.rn.bf16.f32"] = Elementwise<ToBf16, u16, float>::operation();
  all["cvt.f32.f16"] = Elementwise<FromFp16, float, u16>::operation();
  all["cvt.rn.f16.f32"] = Elementwise<ToFp16, u16, float>::operation();
}

}  // namespace

void add_arithmetic(Operations &all) {
  add_integers<u16, s16>(all, "16");
  add_integers<u32, s32>(all, "32");
  add_integers<u64, s64>(all, "64");
  add_floats(all);
  add_conversions(all);
  add_parts<u16, u32>(all, "mov.b32");
  add_parts<u32, u64>(all, "mov.b64");
  all["mul.wide.u16"] = Elementwise<MultiplyWide<u32>, u32, u16, u16>::operation();
  all["mul.wide.s16"] = Elementwise<MultiplyWide<s32>, s32, s16, s16>::operation();
  all["mul.wide.u32"] = Elementwise<MultiplyWide<u64>, u64, u32, u32>::operation();
  all["mul.wide.s32"] = Elementwise<MultiplyWide<s64>, s64, s32, s32>::operation();
  all["mul.hi.s32"] = binary<MultiplyHigh, s32>();
  all["mad.lo.s32"] = all["mad.lo.u32"] = Elementwise<MultiplyAdd, u32, u32, u32, u32>::operation();
  all["bfi.b32"] = Elementwise<Insert, u32, u32, u32, u32, u32>::operation();
  all["prmt.b32"] = Elementwise<Permute, u32, u32, u32, u32>::operation();
  all["and.pred"] = binary<And, bool>();
  all["or.pred"] = binary<Or, bool>();
  all["xor.pred"] = binary<ExclusiveOr, bool>();
  all["not.pred"] = unary<NotPredicate, bool>();
  all["mov.pred"] = unary<Same, bool>();
  all["cvta.to.global.u64"] = unary<Same, u64>();  // a generic address is a global one here
}

}  // namespace pi0_ptx

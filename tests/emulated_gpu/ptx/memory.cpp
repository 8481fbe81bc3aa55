// Loads, stores, atomic operations and asynchronous copies (PTX ISA, chapter 9.7.9).
#include "global_memory.h"
#include "operations.h"
#include "warp.h"

namespace pi0_ptx {
namespace {

struct Global {
  static void load(Warp &, unsigned, uint64_t address, unsigned bytes, void *to) {
    if (global_memory().check(address, bytes)) memcpy(to, reinterpret_cast<const void *>(address), bytes);
  }
  static void store(Warp &warp, unsigned lane, uint64_t address, unsigned bytes, const void *from) {
    warp.stores->store(warp.thread(lane), warp.shared->interval());
    if (global_memory().check(address, bytes)) memcpy(reinterpret_cast<void *>(address), from, bytes);
  }
  using Address = uint64_t;
};

struct Shared {
  static void load(Warp &warp, unsigned lane, uint64_t address, unsigned bytes, void *to) {
    memcpy(to, warp.shared->read(address, bytes, warp.thread(lane)), bytes);
  }
  static void store(Warp &warp, unsigned lane, uint64_t address, unsigned bytes, const void *from) {
    warp.shared->write(address, bytes, warp.thread(lane), from);
  }
  using Address = uint32_t;
};

// The address is the number of a parameter, the offset is within it.
struct Parameter {
  static void load(Warp &warp, unsigned, uint64_t number_and_offset, unsigned bytes, void *to) {
    const auto *parameter = static_cast<const char *>(warp.launch->parameters[number_and_offset >> 32]);
    memcpy(to, parameter + static_cast<uint32_t>(number_and_offset), bytes);
  }
  using Address = uint32_t;
};

template <class Space> uint64_t address_of(Warp &warp, const Instruction &i, unsigned operand, unsigned lane) {
  const auto base = static_cast<typename Space::Address>(warp.row<typename Space::Address>(i.operand[operand])[lane]);
  if constexpr (std::is_same_v<Space, Parameter>) return static_cast<uint64_t>(base) << 32 | static_cast<uint64_t>(i.offset);
  else return static_cast<typename Space::Address>(base + static_cast<uint64_t>(i.offset));
}

// ld.<space>.<type> d, [address], or {d, d}, or {d, d, d, d}: one access of `count` elements.
template <class Space, class T, unsigned count> void load(Warp &warp, const Instruction &i) {
  each_lane(warp, [&](unsigned lane) {
    T values[count] = {};
    Space::load(warp, lane, address_of<Space>(warp, i, count, lane), sizeof values, values);
    for (unsigned c = 0; c < count; c++) warp.row<T>(i.operand[c])[lane] = bits_of<T>(values[c]);
  });
}

// ld.<space>.<type> d, [address], with d of 64 bits: extended by the sign of T, or by zeros.
template <class Space, class T> void load_extended(Warp &warp, const Instruction &i) {
  each_lane(warp, [&](unsigned lane) {
    T value = {};
    Space::load(warp, lane, address_of<Space>(warp, i, 1, lane), sizeof value, &value);
    warp.row<uint64_t>(i.operand[0])[lane] = static_cast<uint64_t>(static_cast<int64_t>(value));
  });
}

template <class Space, class T, unsigned count> void store(Warp &warp, const Instruction &i) {
  each_lane(warp, [&](unsigned lane) {
    T values[count];
    for (unsigned c = 0; c < count; c++) values[c] = value_of<T>(warp.row<T>(i.operand[1 + c])[lane]);
    Space::store(warp, lane, address_of<Space>(warp, i, 0, lane), sizeof values, values);
  });
}

template <class Space, class T, unsigned count>
void add_access(Operations &all, const std::string &space, const std::string &type) {
  const std::string shape = count == 1 ? "" : ".v" + std::to_string(count);
  const std::string values(count, width<T>), address(1, width<typename Space::Address>);
  for (const std::string cached : {"", ".cg", ".ca", ".nc"}) {  // where it is cached changes nothing here
    const std::string name = "ld." + space + cached + shape + "." + type;
    all[name] = {load<Space, T, count>, values + address};
    if constexpr (count == 1 && std::is_integral_v<T> && sizeof(T) < 8) all[name + ".extend"] = {load_extended<Space, T>, "w" + address};
  }
  if constexpr (!std::is_same_v<Space, Parameter>)
    all["st." + space + shape + "." + type] = {store<Space, T, count>, address + values};
}

template <class Space, class T> void add_type(Operations &all, const std::string &space, const std::string &type) {
  add_access<Space, T, 1>(all, space, type);
  add_access<Space, T, 2>(all, space, type);
  if constexpr (sizeof(T) <= 4) add_access<Space, T, 4>(all, space, type);
}

template <class Space> void add_space(Operations &all, const std::string &space) {
  for (const std::string sign : {"u", "b"}) {
    add_type<Space, uint8_t>(all, space, sign + "8");
    add_type<Space, uint16_t>(all, space, sign + "16");
    add_type<Space, uint32_t>(all, space, sign + "32");
    add_type<Space, uint64_t>(all, space, sign + "64");
  }
  add_type<Space, int8_t>(all, space, "s8");
  add_type<Space, int16_t>(all, space, "s16");
  add_type<Space, int32_t>(all, space, "s32");
  add_type<Space, int64_t>(all, space, "s64");
  add_type<Space, float>(all, space, "f32");
}

// d = [address]; [address] = d >= b ? 0 : d + 1.
void increment(Warp &warp, const Instruction &i) {
  each_lane(warp, [&](unsigned lane) {
    const uint64_t address = address_of<Global>(warp, i, 1, lane);
    if (!global_memory().check(address, 4)) return;
    warp.stores->atomic(warp.thread(lane), warp.shared->interval());
    auto *counter = reinterpret_cast<uint32_t *>(address);
    const uint32_t before = *counter, last = warp.row<uint32_t>(i.operand[2])[lane];
    *counter = before >= last ? 0 : before + 1;
    warp.row<uint32_t>(i.operand[0])[lane] = before;
  });
}

constexpr unsigned copy_bytes = 16;

// cp.async [shared], [global], 16, read: bytes behind those that are read become zero.
void copy(Warp &warp, const Instruction &i) {
  each_lane(warp, [&](unsigned lane) {
    const uint64_t to = address_of<Shared>(warp, i, 0, lane), from = warp.row<uint64_t>(i.operand[1])[lane];
    const uint32_t read = warp.row<uint32_t>(i.operand[3])[lane];
    if (warp.row<uint32_t>(i.operand[2])[lane] != copy_bytes || read > copy_bytes) found("asynchronous copy of another size than 16 bytes", to);
    if (from % copy_bytes) found("misaligned source of an asynchronous copy", from);
    if (read && !global_memory().check(from, copy_bytes)) return;
    warp.shared->begin_copy(to, copy_bytes, warp.thread(lane));
    warp.open[lane].push_back({to, from, read});
  });
}

// prefetch.global.L2 [global]: it changes nothing. A GPU ignores an address where nothing is; here it is found.
void prefetch(Warp &warp, const Instruction &i) {
  each_lane(warp, [&](unsigned lane) { global_memory().check(address_of<Global>(warp, i, 0, lane), 1); });
}

void commit(Warp &warp, const Instruction &) {
  for (unsigned lane = 0; lane < lanes; lane++)
    if (warp.active >> lane & 1) warp.groups[lane].push_back(std::move(warp.open[lane])), warp.open[lane].clear();
}

// Copies happen as late as they may: when they are waited for, until at most `pending` groups are left.
void wait_for_group(Warp &warp, const Instruction &i) {
  const unsigned pending = warp.row<uint32_t>(i.operand[0])[0];
  for (unsigned lane = 0; lane < lanes; lane++) {
    auto &groups = warp.groups[lane];
    if (!(warp.active >> lane & 1) || groups.size() <= pending) continue;
    const auto end = groups.end() - pending;
    for (auto group = groups.begin(); group != end; ++group)
      for (const Copy &one : *group)
        warp.shared->end_copy(one.to, copy_bytes, warp.thread(lane), reinterpret_cast<const void *>(one.from), one.bytes);
    groups.erase(groups.begin(), end);
  }
}

void fence(Warp &warp, const Instruction &) {
  each_lane(warp, [&](unsigned lane) { warp.stores->fence(warp.thread(lane)); });
}

}  // namespace

void add_memory(Operations &all) {
  add_space<Global>(all, "global");
  add_space<Shared>(all, "shared");
  add_space<Parameter>(all, "param");
  all["atom.global.inc.u32"] = {increment, "nwn"};
  all["cp.async.cg.shared.global"] = {copy, "nwnn"};
  all["cp.async.commit_group"] = {commit, ""};
  all["cp.async.wait_group"] = {wait_for_group, "n"};
  all["prefetch.global.L2"] = {prefetch, "w"};
  all["membar.gl"] = {fence, ""};
}

}  // namespace pi0_ptx

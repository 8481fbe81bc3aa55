// Runs launches from PTX: the blocks of a launch one after the other, the warps of a block in turns between barriers.
//
// The lanes of a warp that are at the same instruction run together. Where they are not, those that are furthest behind go
// on alone until they meet the others; at an instruction of the whole warp they wait for them. If no lane can go on and
// they do not wait at the same place, the warp is not converged, and hardware would do anything.
#include <algorithm>
#include <memory>
#include <numeric>
#include <stdexcept>

#include "device.cuh"
#include "global_memory.h"
#include "operations.h"
#include "warp.h"

namespace pi0_ptx {

const std::unordered_map<std::string, Operation> &operations() {
  static const Operations all = [] {
    Operations made;
    add_arithmetic(made), add_memory(made), add_whole_warp(made);
    return made;
  }();
  return all;
}

GlobalMemory &global_memory() {
  static GlobalMemory memory;
  return memory;
}

namespace {

constexpr unsigned most_findings = 5;
constexpr uint64_t most_instructions = 20'000'000'000;  // of a launch: one that waits for another block never ends

// What runs now, for findings.
struct Now {
  const Kernel *kernel = nullptr;
  const Instruction *instruction = nullptr;
  unsigned block = 0, warp = 0;
};

Now now;
std::vector<std::string> findings;
uint64_t findings_of_launch = 0;
std::map<std::string, std::unique_ptr<Kernel>> kernels;

class Machine {
 public:
  explicit Machine(const Launch &launch) : launch_(launch) {
    const unsigned threads = launch.block[0] * launch.block[1] * launch.block[2];
    warps_.resize(threads / lanes);
    for (unsigned i = 0; i < warps_.size(); i++) prepare(warps_[i], i);
  }

  void run_block(unsigned number, size_t shared_bytes, std::minstd_rand *chance) {
    now.block = number;
    shared_.begin_block(shared_bytes);
    stores_.begin_block(static_cast<unsigned>(warps_.size()) * lanes);
    for (Warp &warp : warps_) begin(warp, number);
    std::vector<unsigned> order(warps_.size());
    std::iota(order.begin(), order.end(), 0u);
    while (!findings_of_launch) {
      if (chance) std::shuffle(order.begin(), order.end(), *chance);
      bool all_done = true;
      for (const unsigned i : order) run_to_barrier(warps_[i]), all_done &= warps_[i].running == 0;
      if (all_done) return;
      shared_.cross_barrier();
      for (Warp &warp : warps_) pass(warp);
    }
  }

 private:
  void prepare(Warp &warp, unsigned number) {
    const Kernel &kernel = *launch_.kernel;
    warp.launch = &launch_, warp.shared = &shared_, warp.stores = &stores_, warp.number = number;
    warp.registers.resize((kernel.slots + 1) * lanes);
    for (const Constant &constant : kernel.constants)
      for (unsigned lane = 0; lane < lanes; lane++) {
        if (constant.wide) warp.row<uint64_t>(constant.slot)[lane] = constant.value;
        else warp.row<uint32_t>(constant.slot)[lane] = static_cast<uint32_t>(constant.value);
      }
  }

  void begin(Warp &warp, unsigned block) {
    warp.at.fill(0), warp.running = all_lanes, warp.waiting = 0;
    for (unsigned lane = 0; lane < lanes; lane++) warp.open[lane].clear(), warp.groups[lane].clear();
    for (const auto &[special, slot] : launch_.kernel->specials)
      for (unsigned lane = 0; lane < lanes; lane++)
        warp.row<uint32_t>(slot)[lane] = value(special, warp.thread(lane), block);
  }

  unsigned value(Special special, unsigned thread, unsigned block) const {
    const auto part = [](unsigned number, const std::array<unsigned, 3> &size, Special first, Special which) {
      const int axis = static_cast<int>(which) - static_cast<int>(first);
      return axis == 0 ? number % size[0] : axis == 1 ? number / size[0] % size[1] : number / size[0] / size[1];
    };
    if (special <= Special::tid_z) return part(thread, launch_.block, Special::tid_x, special);
    if (special <= Special::ntid_z) return launch_.block[static_cast<int>(special) - static_cast<int>(Special::ntid_x)];
    if (special <= Special::ctaid_z) return part(block, launch_.grid, Special::ctaid_x, special);
    if (special <= Special::nctaid_z) return launch_.grid[static_cast<int>(special) - static_cast<int>(Special::nctaid_x)];
    return thread % lanes;
  }

  // Until every lane has returned or waits at a barrier.
  void run_to_barrier(Warp &warp) {
    now.warp = warp.number;
    while (!findings_of_launch) {
      const unsigned ready = warp.running & ~warp.waiting;
      if (ready) {
        run_together(warp, ready);
      } else if (!warp.running || at_barrier(warp)) {
        return;
      }
    }
  }

  // Whether the lanes that wait do so at the same barrier; a finding if they wait at different places.
  bool at_barrier(Warp &warp) {
    const unsigned first = warp.at[__builtin_ctz(warp.waiting)];
    now.instruction = &launch_.kernel->code[first];
    for (unsigned lane = 0; lane < lanes; lane++)
      if (warp.waiting >> lane & 1 && warp.at[lane] != first) found("the lanes of a warp wait at different instructions", lane);
    if (!findings_of_launch && now.instruction->kind != Kind::barrier)
      found("an instruction of the whole warp, at which not all lanes arrive", __builtin_popcount(warp.waiting));
    return true;
  }

  // The lanes furthest behind, until they return, wait, part or meet others.
  void run_together(Warp &warp, unsigned ready) {
    unsigned at = UINT32_MAX, others = UINT32_MAX;  // where the first others are
    for (unsigned lane = 0; lane < lanes; lane++)
      if (ready >> lane & 1) at = std::min(at, warp.at[lane]);
    unsigned group = 0;
    for (unsigned lane = 0; lane < lanes; lane++)
      if (ready >> lane & 1) {
        if (warp.at[lane] == at) group |= 1u << lane;
        else others = std::min(others, warp.at[lane]);
      }
    const std::vector<Instruction> &code = launch_.kernel->code;
    while (at < others) {
      const Instruction &one = code[at];
      now.instruction = &one;
      if (++instructions_ > most_instructions) return found("the launch does not end", 0);
      const unsigned chosen = one.guarded ? group & guarded(warp, one) : group;
      switch (one.kind) {
        case Kind::plain:
          warp.active = chosen;
          if (chosen) one.run(warp, one);
          if (findings_of_launch) return;
          break;
        case Kind::branch:
          if (chosen == group) {
            at = one.target;
            continue;
          }
          if (!chosen) break;
          return part(warp, group, chosen, one.target, at + 1);
        case Kind::exit:
          warp.running &= ~chosen;
          group &= ~chosen;
          if (!group) return;
          break;
        case Kind::whole_warp:
          if (chosen == all_lanes) {
            warp.active = all_lanes;
            one.run(warp, one);
            if (findings_of_launch) return;
            break;
          }
          [[fallthrough]];
        case Kind::barrier:
          if (!chosen) break;
          part(warp, group, chosen, at, at + 1);
          warp.waiting |= chosen;
          return meet(warp);
      }
      at++;
    }
    part(warp, group, group, at, at);
  }

  static unsigned guarded(Warp &warp, const Instruction &one) {
    const auto *guard = warp.row<uint32_t>(one.guard);
    unsigned chosen = 0;
    for (unsigned lane = 0; lane < lanes; lane++) chosen |= static_cast<unsigned>((guard[lane] != 0) == one.guard_is) << lane;
    return chosen;
  }

  static void part(Warp &warp, unsigned group, unsigned chosen, unsigned there, unsigned here) {
    for (unsigned lane = 0; lane < lanes; lane++)
      if (group >> lane & 1) warp.at[lane] = chosen >> lane & 1 ? there : here;
  }

  // Runs the instruction of the whole warp at which the last lanes have now arrived, if they have.
  void meet(Warp &warp) {
    const Instruction &one = launch_.kernel->code[warp.at[0]];
    if (warp.waiting != all_lanes || one.kind != Kind::whole_warp) return;
    if (std::any_of(warp.at.begin(), warp.at.end(), [&](unsigned at) { return at != warp.at[0]; })) return;
    now.instruction = &one;
    warp.active = all_lanes;
    one.run(warp, one);
    pass(warp);
  }

  static void pass(Warp &warp) {
    for (unsigned lane = 0; lane < lanes; lane++) warp.at[lane] += warp.waiting >> lane & 1;
    warp.waiting = 0;
  }

  const Launch launch_;
  SharedMemory shared_;
  Stores stores_;
  std::vector<Warp> warps_;
  uint64_t instructions_ = 0;
};

// What the emulated GPU calls instead of the source of a kernel.
cudaError_t run_launch(const std::string &name, dim3 grid, dim3 block, size_t shared, const void *const *parameters) {
  findings_of_launch = 0;
  const auto kernel = kernels.find(name);
  if (kernel == kernels.end()) {
    findings.push_back("there is no PTX of the kernel " + name);
    return cudaErrorLaunchFailure;
  }
  now = {kernel->second.get()};
  Machine machine({kernel->second.get(), parameters, {grid.x, grid.y, grid.z}, {block.x, block.y, block.z}});
  const unsigned seed = pi0_emulation::order_seed;
  std::minstd_rand chance(seed);
  std::vector<unsigned> order(grid.x * grid.y * grid.z);
  std::iota(order.begin(), order.end(), 0u);
  if (seed) std::shuffle(order.begin(), order.end(), chance);
  for (const unsigned number : order) {
    machine.run_block(number, shared, seed ? &chance : nullptr);
    if (findings_of_launch) return cudaErrorLaunchFailure;
  }
  return cudaSuccess;
}

}  // namespace

void found(const std::string &what, uint64_t address) {
  if (findings_of_launch++ >= most_findings) return;
  std::string text = what;
  char where[96];
  snprintf(where, sizeof where, ", address 0x%llx, block %u, warp %u", static_cast<unsigned long long>(address), now.block, now.warp);
  text += where;
  if (now.instruction != nullptr) {
    const Kernel &kernel = *now.kernel;
    text += ", at " + kernel.places[now.instruction->place] + ": " + kernel.text[static_cast<size_t>(now.instruction - kernel.code.data())];
  }
  findings.push_back(text);
}

}  // namespace pi0_ptx

// Reads kernels from PTX; from now on they run instead of their sources. Answers an empty text, or what was not understood.
PI0_API const char *pi0_ptx_load(const char *ptx) {
  static std::string problem;
  problem.clear();
  pi0_emulation::instead_of_source = pi0_ptx::run_launch;
  try {
    for (pi0_ptx::Kernel &kernel : pi0_ptx::parse(ptx)) {
      const std::string name = kernel.name;
      pi0_ptx::kernels[name] = std::make_unique<pi0_ptx::Kernel>(std::move(kernel));
    }
  } catch (const std::exception &error) {
    problem = error.what();
  }
  return problem.c_str();
}

// The launches from now on may use these bytes of memory, beside those named before; no bytes: forget all that were named.
PI0_API void pi0_ptx_allow(int64_t address, int64_t bytes) {
  if (bytes == 0) pi0_ptx::global_memory().forget();
  else pi0_ptx::global_memory().allow(static_cast<uint64_t>(address), static_cast<uint64_t>(bytes));
}

// What was found since this was last asked, a line each.
PI0_API const char *pi0_ptx_findings(void) {
  static std::string lines;
  lines.clear();
  for (const std::string &one : pi0_ptx::findings) lines += one + "\n";
  pi0_ptx::findings.clear();
  return lines.c_str();
}

// The names of all kernels that were read, a line each.
PI0_API const char *pi0_ptx_kernels(void) {
  static std::string lines;
  lines.clear();
  for (const auto &[name, kernel] : pi0_ptx::kernels) lines += name + "\n";
  return lines.c_str();
}

// Runs a kernel of PTX without any CUDA source: grid and block along x, parameters by their addresses.
PI0_API int pi0_ptx_run(const char *name, int64_t grid, int64_t block, int64_t shared, const void *const *parameters) {
  return pi0_ptx::run_launch(name, dim3(static_cast<unsigned>(grid)), dim3(static_cast<unsigned>(block)),
                             static_cast<size_t>(shared), parameters);
}

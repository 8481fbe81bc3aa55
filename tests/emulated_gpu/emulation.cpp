// What the tests ask of the emulated GPU beside running kernels.
#include "device.cuh"

#include <dlfcn.h>

std::string pi0::kernel_name(const void *kernel) {
  Dl_info info;
  return dladdr(kernel, &info) && info.dli_sname ? info.dli_sname : "?";
}

// Order of blocks, and of threads between barriers, from now on: 0 ascending, any other number random.
PI0_API void pi0_emulation_order(int64_t seed) { pi0_emulation::order_seed = static_cast<unsigned>(seed); }

// Bytes of shared memory that a block may take from now on.
PI0_API void pi0_emulation_shared_memory(int64_t bytes) {
  pi0_emulation::shared_memory_per_block = static_cast<int>(bytes);
}

// From now on, launches are only recorded.
PI0_API void pi0_emulation_only_record(int64_t on) { pi0_emulation::only_record = on != 0; }

// Bank conflicts of load_matrices since this was last asked.
PI0_API int64_t pi0_emulation_bank_conflicts(void) {
  const int64_t counted = pi0_emulation::bank_conflicts;
  pi0_emulation::bank_conflicts = 0;
  return counted;
}

// One line per launch since the last call: mangled name, grid, block, bytes of shared memory.
PI0_API const char *pi0_emulation_launches(void) {
  static std::string lines;
  lines.clear();
  for (const auto &l : pi0_emulation::launches) {
    char line[128];
    snprintf(line, sizeof line, " %u %u %u %u %u %u %zu\n", l.grid.x, l.grid.y, l.grid.z, l.block.x, l.block.y,
             l.block.z, l.shared);
    lines += l.kernel + line;
  }
  pi0_emulation::launches.clear();
  return lines.c_str();
}

// Global memory is that of the process. What a launch may touch in it are the tensors that its caller named.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "findings.h"

namespace pi0_ptx {

class GlobalMemory {
 public:
  // A launch may use these bytes as well; without any such call it may use everything.
  void allow(uint64_t begin, uint64_t bytes) { allowed_.push_back({begin, begin + bytes}); }
  void forget() { allowed_.clear(), last_ = 0; }

  // Whether an access is possible; a finding if it is not.
  bool check(uint64_t address, unsigned bytes) {
    if (address % bytes) found("misaligned access to global memory, " + std::to_string(bytes) + " bytes", address);
    if (allowed_.empty() || inside(last_, address, bytes)) return true;
    for (last_ = 0; last_ < allowed_.size(); last_++)
      if (inside(last_, address, bytes)) return true;
    last_ = 0;
    found("access to " + std::to_string(bytes) + " bytes of global memory outside all tensors" + nearest(address), address);
    return false;
  }

 private:
  struct Range {
    uint64_t begin, end;
  };

  bool inside(size_t i, uint64_t address, unsigned bytes) const {
    return allowed_[i].begin <= address && address + bytes <= allowed_[i].end;
  }

  // How far behind the end of the tensor before it.
  std::string nearest(uint64_t address) const {
    uint64_t end = 0;
    for (const Range &range : allowed_)
      if (range.begin <= address && range.end > end) end = range.end;
    return end ? ", " + std::to_string(static_cast<int64_t>(address - end)) + " bytes behind the end of one" : "";
  }

  std::vector<Range> allowed_;
  size_t last_ = 0;
};

GlobalMemory &global_memory();

}  // namespace pi0_ptx

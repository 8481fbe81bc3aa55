// What is wrong with a launch, in words.
#pragma once

#include <cstdint>
#include <string>

namespace pi0_ptx {

// Notes a mistake of the instruction that runs now; the launch will fail. The first few are kept.
void found(const std::string &what, uint64_t address);

}  // namespace pi0_ptx

// Where each part of PTX adds what it knows.
#pragma once

#include "program.h"

namespace pi0_ptx {

using Operations = std::unordered_map<std::string, Operation>;

void add_arithmetic(Operations &all);
void add_memory(Operations &all);
void add_whole_warp(Operations &all);

}  // namespace pi0_ptx

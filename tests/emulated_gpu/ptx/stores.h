// In which order other blocks may see what the threads of a block store to global memory.
//
// A thread that takes a ticket tells other blocks that everything its block has stored before is there. So every thread
// must have fenced its stores (membar), and a barrier must lie between them and the atomic operation. Whether the other
// block then fences before it reads cannot be seen: blocks run one after the other here.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "findings.h"

namespace pi0_ptx {

class Stores {
 public:
  void begin_block(unsigned threads) { last_.assign(threads, 0), open_.assign(threads, false), atomic_interval_ = 0; }

  // Intervals are those between barriers, counted from 1.
  void store(unsigned thread, uint32_t interval) {
    if (atomic_interval_ == interval && atomic_thread_ != thread)
      found("store to global memory, which thread " + std::to_string(atomic_thread_) + " announced without a barrier", thread);
    last_[thread] = interval, open_[thread] = true;
  }
  void fence(unsigned thread) { open_[thread] = false; }

  void atomic(unsigned thread, uint32_t interval) {
    atomic_interval_ = interval, atomic_thread_ = thread;
    for (unsigned other = 0; other < last_.size(); other++) {
      if (other != thread && last_[other] == interval)
        return found("atomic operation without a barrier after a store of thread " + std::to_string(other), thread);
      if (open_[other])
        return found("atomic operation without a fence after a store of thread " + std::to_string(other), thread);
    }
  }

 private:
  std::vector<uint32_t> last_;  // interval of the last store of each thread
  std::vector<bool> open_;      // stored and not fenced
  uint32_t atomic_interval_ = 0;
  unsigned atomic_thread_ = 0;
};

}  // namespace pi0_ptx

// The shared memory of a block, and what must not happen to it.
//
// Two threads that use the same bytes, one of them writing, need a barrier in between. Barriers are counted: a byte
// remembers in which interval between two barriers it was written and read, and by whom. An asynchronous copy may write at
// any moment from when it is issued until its thread has waited for it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "findings.h"

namespace pi0_ptx {

class SharedMemory {
 public:
  // Makes ready for a block with so many bytes, all of them NaN.
  void begin_block(size_t bytes) {
    bytes_ = bytes;
    memory_.assign(bytes + 16, 0xff);
    if (cells_.size() < bytes / granule + 1) cells_.resize(bytes / granule + 1);
    for (size_t i = 0; i <= bytes / granule; i++) cells_[i].pending = 0;
    first_interval_ = ++interval_;
  }
  void cross_barrier() { interval_++; }
  uint32_t interval() const { return interval_; }

  // The bytes at an address that `thread` reads, or writes.
  const uint8_t *read(uint64_t address, unsigned bytes, unsigned thread) {
    if (!check(address, bytes)) return memory_.data() + bytes_;
    each_cell(address, bytes, [&](Cell &cell) {
      if (cell.pending) found("read of shared memory that an asynchronous copy may still write", address);
      else if (cell.written < first_interval_) found("read of shared memory that nobody has written", address);
      else if (cell.written == interval_ && cell.writer != thread)
        found("read of shared memory that thread " + std::to_string(cell.writer) + " wrote, without a barrier", address);
      cell.reader = cell.read == interval_ && cell.reader != thread ? several : thread;
      cell.read = interval_;
    });
    return memory_.data() + address;
  }

  void write(uint64_t address, unsigned bytes, unsigned thread, const void *data) {
    if (!check(address, bytes)) return;
    const bool same = memcmp(memory_.data() + address, data, bytes) == 0;  // two threads may write the same value
    mark_written(address, bytes, thread, same);
    memcpy(memory_.data() + address, data, bytes);
  }

  void begin_copy(uint64_t address, unsigned bytes, unsigned thread) {
    if (!check(address, bytes)) return;
    mark_written(address, bytes, thread, false);
    each_cell(address, bytes, [&](Cell &cell) { cell.pending++; });
  }

  // A copy whose thread has waited for it; what is not read becomes zero.
  void end_copy(uint64_t address, unsigned bytes, unsigned thread, const void *from, unsigned read_bytes) {
    if (address + bytes > bytes_) return;
    each_cell(address, bytes, [&](Cell &cell) {
      cell.pending--;
      cell.writer = static_cast<uint16_t>(thread), cell.written = interval_;
    });
    memset(memory_.data() + address, 0, bytes);
    memcpy(memory_.data() + address, from, read_bytes);
  }

 private:
  static constexpr unsigned granule = 2;  // bytes that share a cell
  static constexpr uint16_t several = 0xffff;

  struct Cell {
    uint32_t written = 0, read = 0;  // intervals
    uint16_t writer = 0, reader = 0, pending = 0;
  };

  bool check(uint64_t address, unsigned bytes) {
    if (address % bytes) found("misaligned access to shared memory, " + std::to_string(bytes) + " bytes", address);
    if (bytes % granule) found("access to a single byte of shared memory, which races cannot be told of", address);
    if (address + bytes <= bytes_) return true;
    found("access out of the " + std::to_string(bytes_) + " bytes of shared memory", address);
    return false;
  }

  void mark_written(uint64_t address, unsigned bytes, unsigned thread, bool same) {
    each_cell(address, bytes, [&](Cell &cell) {
      if (cell.pending) found("write to shared memory that an asynchronous copy may still write", address);
      else if (cell.written == interval_ && cell.writer != thread && !same)
        found("write to shared memory that thread " + std::to_string(cell.writer) + " wrote, without a barrier", address);
      if (cell.read == interval_ && cell.reader != thread)
        found("write to shared memory that another thread read, without a barrier", address);
      cell.writer = static_cast<uint16_t>(thread), cell.written = interval_;
    });
  }

  template <class Function> void each_cell(uint64_t address, unsigned bytes, Function function) {
    for (size_t i = address / granule; i < (address + bytes + granule - 1) / granule; i++) function(cells_[i]);
  }

  size_t bytes_ = 0;
  std::vector<uint8_t> memory_;
  std::vector<Cell> cells_;
  uint32_t interval_ = 0, first_interval_ = 1;  // intervals go on from block to block
};

}  // namespace pi0_ptx

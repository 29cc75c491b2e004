// How many triples a device solves together, learned from what it does.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/time/time.h"

namespace d2g::simulate {

// Starts at a size and, where growing is allowed, doubles it as long as each doubling makes triples
// faster by more than a few per cent; halves it when memory runs out, and stays below from then on.
// The first batch of each size is not timed: it allocates, chooses algorithms and, at the very
// first, loads kernels.
// Pure and not thread-safe; one per teacher and guidance.
class BatchSizer {
 public:
  struct Options {
    int start = 32;
    // Never more than this.
    int most = 4096;
    // Whether sizes above `start` are tried.
    bool grows = false;
  };

  explicit BatchSizer(const Options& options);

  // The size of the next batch, at least 1.
  int size() const { return size_; }

  // A batch of `count` took `elapsed`. Batches that were not full, and the first of each size,
  // teach nothing.
  void Solved(int64_t count, absl::Duration elapsed);

  // A batch of `count` did not fit into memory. False when it was a single one: nothing smaller can
  // be tried.
  bool OutOfMemory(int64_t count);

 private:
  int size_;
  int most_;
  bool grows_;
  bool warm_ = false;  // whether a batch of size_ has been solved
  // Triples a second at half of size_; 0 before the first measurement.
  double rate_before_ = 0;
};

}  // namespace d2g::simulate

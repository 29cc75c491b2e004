// Units a second over a sliding window.
#pragma once

#include <cstdint>
#include <deque>
#include <utility>

#include "absl/time/time.h"

namespace d2g::coordinator {

// Fed with the value of a counter at monotonic times. A value that falls (work was lost) starts the
// window anew. Thread-compatible.
class RateMeter {
 public:
  explicit RateMeter(absl::Duration window) : window_(window) {}
  // Samples closer than a fiftieth of the window replace the one before.
  void Sample(absl::Duration now, int64_t value);
  // 0 until two samples differ in time.
  double Rate() const;

 private:
  absl::Duration window_;
  std::deque<std::pair<absl::Duration, int64_t>> samples_;
};

}  // namespace d2g::coordinator

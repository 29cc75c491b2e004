// Units a second over a sliding window.
#pragma once

#include <cstdint>
#include <deque>
#include <utility>

#include "absl/time/time.h"
#include "coordinator/rows/limits.h"

namespace d2g::coordinator {

// Fed with the value of a counter at monotonic times. The window begins with the first growth of
// the counter: the time before it is that of a start and says nothing of the rate. A value that
// falls (work was lost) starts anew. Thread-compatible.
class RateMeter {
 public:
  explicit RateMeter(absl::Duration window = kRateWindow) : window_(window) {}
  // Samples closer than a fiftieth of the window replace the one before.
  void Sample(absl::Duration now, int64_t value);
  // Forgets everything: work was interrupted, and its first growth begins the window again.
  void Reset();
  // 0 until the counter has grown twice.
  double Rate() const;

 private:
  absl::Duration window_;
  // Before the first growth the last value alone, with its time.
  std::deque<std::pair<absl::Duration, int64_t>> samples_;
  bool growing_ = false;
};

}  // namespace d2g::coordinator

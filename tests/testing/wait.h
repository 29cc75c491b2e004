// Waiting on conditions in tests.
#pragma once

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace d2g::testing {

// True as soon as `condition()` is; false when it still is not after `timeout`. Polls.
template <typename Condition>
bool WaitFor(Condition&& condition, absl::Duration timeout = absl::Seconds(20)) {
  const absl::Time deadline = absl::Now() + timeout;
  while (!condition()) {
    if (absl::Now() >= deadline) return false;
    absl::SleepFor(absl::Milliseconds(5));
  }
  return true;
}

}  // namespace d2g::testing

// SIGTERM and SIGINT, taken by waiting instead of by handlers.
#pragma once

#include <optional>

#include "absl/time/time.h"

namespace d2g::common {

// Blocks SIGTERM and SIGINT for this thread and all it starts, and ignores SIGPIPE. Call first
// thing in main, before any thread exists.
void BlockStopSignals();

// The signal that asked the process to stop, or nothing when `timeout` passed.
std::optional<int> WaitForStopSignal(absl::Duration timeout = absl::InfiniteDuration());

}  // namespace d2g::common

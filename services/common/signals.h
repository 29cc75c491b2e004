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

// For children between fork and exec, or posix_spawn attributes: a blocked mask is inherited.
void UnblockStopSignals();

}  // namespace d2g::common

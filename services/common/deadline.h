// Deadlines and timed waits that a step of the wall clock neither shortens nor stretches.
//
// The deadlines of calls and of retries are moments on a clock of their own, which starts with the
// process and never jumps: make them with DeadlineIn and look at them with TimeLeft, never with
// absl::Now. They mean nothing to another process.
//
// Abseil before its release of August 2023 lets a timed wait sleep until a moment of the wall
// clock, and gRPC's timers (call deadlines, keep-alive, reconnecting) wait through it: when the
// clock is set back by an hour they all stand still for an hour. A program that uses a function
// below has Abseil's hook for waiting replaced by one that sleeps on the monotonic clock, for its
// own waits and for gRPC's. A wait that takes a moment instead of a duration (AwaitWithDeadline
// and its like) still reads the wall clock when it begins: use the forms with a timeout.
#pragma once

#include "absl/time/time.h"

namespace d2g::common {

// The moment `timeout` from now; an infinite timeout gives absl::InfiniteFuture(). Thread-safe.
absl::Time DeadlineIn(absl::Duration timeout);

// From now until `deadline`; negative when it has passed. Thread-safe.
absl::Duration TimeLeft(absl::Time deadline);

}  // namespace d2g::common

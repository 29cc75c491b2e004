// Retrying idempotent calls with jittered back-off.
#pragma once

#include <cstdint>
#include <random>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"

namespace d2g::common {

struct BackoffOptions {
  // Upper bound of the first wait.
  absl::Duration initial = absl::Milliseconds(100);
  // Upper bound of any wait.
  absl::Duration max = absl::Seconds(5);
  // Growth of the bound.
  double factor = 1.7;
};

// Waits between attempts: uniform between half the bound and the bound, so that a fleet does not
// come back in step. Not thread-safe.
class Backoff {
 public:
  // Seeded from the machine; tests pass a seed.
  explicit Backoff(const BackoffOptions& options = {});
  Backoff(const BackoffOptions& options, uint64_t seed);

  // How long to wait now; the next one is longer.
  absl::Duration Next();
  // After a success.
  void Reset() { bound_ = options_.initial; }

 private:
  const BackoffOptions options_;
  absl::Duration bound_;
  std::mt19937_64 random_;
};

struct RetryOptions {
  BackoffOptions backoff;
  // Ends the waiting early with CANCELLED when notified.
  const absl::Notification* stop = nullptr;
};

// True for UNAVAILABLE and DEADLINE_EXCEEDED: the peer may not have seen the call, or its answer
// got lost.
bool IsRetryable(const absl::Status& status);

// Calls until it succeeds, fails with a status that IsRetryable refuses, `deadline` passes (the
// last UNAVAILABLE status if there was one, else the last; its message tells that time ran out) or
// `stop` is notified. Calls at least once, unless `stop` was notified before.
absl::Status RetryUntil(absl::Time deadline, absl::FunctionRef<absl::Status()> call,
                        const RetryOptions& options = {});

}  // namespace d2g::common

#include "services/common/retry.h"

#include <algorithm>

#include "absl/time/clock.h"
#include "services/common/deadline.h"
#include "services/common/status_macros.h"

namespace d2g::common {

Backoff::Backoff(const BackoffOptions& options)
    : Backoff(options,
              (static_cast<uint64_t>(std::random_device()()) << 32) | std::random_device()()) {}

Backoff::Backoff(const BackoffOptions& options, uint64_t seed)
    : options_(options), bound_(options.initial), random_(seed) {}

absl::Duration Backoff::Next() {
  const double share = std::uniform_real_distribution<double>(0.5, 1.0)(random_);
  const absl::Duration wait = bound_ * share;
  bound_ = std::min(options_.max, bound_ * options_.factor);
  return wait;
}

bool IsRetryable(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
}

absl::Status RetryUntil(absl::Time deadline, absl::FunctionRef<absl::Status()> call,
                        const RetryOptions& options) {
  Backoff backoff(options.backoff);
  absl::Status unavailable;
  while (true) {
    if (options.stop != nullptr && options.stop->HasBeenNotified()) {
      return absl::CancelledError("stopped while retrying");
    }
    const absl::Status status = call();
    if (status.ok() || !IsRetryable(status)) return status;
    if (absl::IsUnavailable(status)) unavailable = status;
    const absl::Duration left = TimeLeft(deadline);
    if (left <= absl::ZeroDuration()) {
      // An attempt cut short by the deadline itself says less than why the ones before it failed.
      return Annotate(unavailable.ok() ? status : unavailable, "gave up retrying");
    }
    const absl::Duration wait = std::min(left, backoff.Next());
    if (options.stop == nullptr) {
      absl::SleepFor(wait);
    } else {
      options.stop->WaitForNotificationWithTimeout(wait);
    }
  }
}

}  // namespace d2g::common

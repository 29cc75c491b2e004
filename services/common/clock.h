// Time, injected.
#pragma once

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace d2g::common {

// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  // Wall time: for people and records. May jump; deadline.h has what calls and waits need.
  virtual absl::Time Now() const = 0;
  // Time since some fixed moment; never jumps back. For leases, rates and back-off.
  virtual absl::Duration SteadyNow() const = 0;
};

// The machine's clocks.
class RealClock final : public Clock {
 public:
  // The one instance; never destroyed.
  static RealClock* Get();
  absl::Time Now() const override { return absl::Now(); }
  absl::Duration SteadyNow() const override;
};

// For tests: stands still until told.
class FakeClock final : public Clock {
 public:
  explicit FakeClock(absl::Time now = absl::FromUnixSeconds(1'700'000'000)) : now_(now) {}
  absl::Time Now() const override {
    absl::MutexLock lock(&mutex_);
    return now_;
  }
  absl::Duration SteadyNow() const override {
    absl::MutexLock lock(&mutex_);
    return steady_;
  }
  // Moves both clocks forward.
  void AdvanceTime(absl::Duration by) {
    absl::MutexLock lock(&mutex_);
    now_ += by;
    steady_ += by;
  }
  // Moves the wall clock only, in either direction.
  void JumpWallClock(absl::Duration by) {
    absl::MutexLock lock(&mutex_);
    now_ += by;
  }

 private:
  mutable absl::Mutex mutex_;
  absl::Time now_ ABSL_GUARDED_BY(mutex_);
  absl::Duration steady_ ABSL_GUARDED_BY(mutex_) = absl::Seconds(1000);
};

}  // namespace d2g::common

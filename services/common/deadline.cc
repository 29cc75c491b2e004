#include "services/common/deadline.h"

#include "absl/base/config.h"
#include "absl/time/clock.h"
#include "services/common/clock.h"

#if defined(ABSL_LTS_RELEASE_VERSION) && ABSL_LTS_RELEASE_VERSION < 20230802

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <ctime>

#include "absl/synchronization/internal/per_thread_sem.h"
#include "absl/synchronization/internal/waiter.h"

namespace {

using absl::synchronization_internal::KernelTimeout;
using absl::synchronization_internal::Waiter;

static_assert(ABSL_WAITER_MODE == ABSL_WAITER_MODE_FUTEX,
              "a Waiter is one futex word that counts posts");
static_assert(sizeof(Waiter) == sizeof(std::atomic<int32_t>));

absl::Duration Read(clockid_t clock) {
  timespec now;
  clock_gettime(clock, &now);
  return absl::DurationFromTimespec(now);
}

// Takes one post from the count, if there is any.
bool TryTake(std::atomic<int32_t>* posts) {
  int32_t count = posts->load(std::memory_order_relaxed);
  while (count != 0) {
    if (posts->compare_exchange_weak(count, count - 1, std::memory_order_acquire,
                                     std::memory_order_relaxed)) {
      return true;
    }
  }
  return false;
}

// Waits for a post until `end` on the monotonic clock. False when none came.
bool TakeUntil(std::atomic<int32_t>* posts, absl::Duration end) {
  const timespec until = absl::ToTimespec(end);
  while (!TryTake(posts)) {
    // Without FUTEX_CLOCK_REALTIME the kernel measures with CLOCK_MONOTONIC.
    const long woken = syscall(SYS_futex, posts, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, 0, &until,
                               nullptr, FUTEX_BITSET_MATCH_ANY);
    if (woken != 0 && errno == ETIMEDOUT) return TryTake(posts);
  }
  return true;
}

}  // namespace

// Abseil declares it weak, as the place where a program may put its own way of waiting. `timeout`
// is a time of the wall clock, computed just now: the time left until then is slept on the steady
// clock.
extern "C" bool ABSL_INTERNAL_C_SYMBOL(AbslInternalPerThreadSemWait)(KernelTimeout timeout) {
  auto* const identity = absl::synchronization_internal::GetOrCreateCurrentThreadIdentity();
  std::atomic<int>* const blocked = identity->blocked_count_ptr;
  if (blocked != nullptr) blocked->fetch_add(1, std::memory_order_relaxed);
  bool taken = false;
  if (timeout.has_timeout()) {
    const absl::Duration left =
        absl::DurationFromTimespec(timeout.MakeAbsTimespec()) - Read(CLOCK_REALTIME);
    taken = TakeUntil(reinterpret_cast<std::atomic<int32_t>*>(identity->waiter_state.data),
                      Read(CLOCK_MONOTONIC) + std::max(left, absl::ZeroDuration()));
  } else {
    taken = Waiter::GetWaiter(identity)->Wait(timeout);
  }
  if (blocked != nullptr) blocked->fetch_sub(1, std::memory_order_relaxed);
  return taken;
}

#endif

namespace d2g::common {
namespace {

// Close to the wall clock, so that a deadline in a log or a debugger can be read.
absl::Time Now() {
  static const absl::Time start = absl::Now() - RealClock::Get()->SteadyNow();
  return start + RealClock::Get()->SteadyNow();
}

}  // namespace

absl::Time DeadlineIn(absl::Duration timeout) { return Now() + timeout; }

absl::Duration TimeLeft(absl::Time deadline) { return deadline - Now(); }

}  // namespace d2g::common

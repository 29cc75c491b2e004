#include "services/common/signals.h"
#include "services/common/deadline.h"

#include <algorithm>
#include <cerrno>
#include <csignal>

namespace d2g::common {
namespace {

sigset_t StopSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  return set;
}

}  // namespace

void BlockStopSignals() {
  const sigset_t set = StopSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

std::optional<int> WaitForStopSignal(absl::Duration timeout) {
  const sigset_t set = StopSignals();
  const absl::Time deadline = DeadlineIn(timeout);
  while (true) {
    int got = 0;
    if (timeout == absl::InfiniteDuration()) {
      got = sigwaitinfo(&set, nullptr);
    } else {
      const absl::Duration left = std::max(absl::ZeroDuration(), TimeLeft(deadline));
      const timespec wait = absl::ToTimespec(left);
      got = sigtimedwait(&set, nullptr, &wait);
    }
    if (got > 0) return got;
    if (errno == EAGAIN) return std::nullopt;
  }
}

}  // namespace d2g::common

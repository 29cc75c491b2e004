#include "worker/lease/task_context.h"

#include <utility>

namespace d2g::lease {

void TaskContext::SetPhase(std::string_view phase) {
  absl::MutexLock lock(&mutex_);
  phase_ = phase;
}

void TaskContext::SetDone(int64_t done, int64_t total) {
  absl::MutexLock lock(&mutex_);
  done_ = done;
  total_ = total;
}

void TaskContext::Cancel(CancelReason reason) {
  absl::MutexLock callback_lock(&callback_mutex_);
  {
    absl::MutexLock lock(&mutex_);
    if (reason_ != CancelReason::kNone || reason == CancelReason::kNone) return;
    reason_ = reason;
    cancelled_.store(true, std::memory_order_relaxed);
  }
  if (on_cancel_) on_cancel_(reason);
}

void TaskContext::SetOnCancel(std::function<void(CancelReason)> on_cancel) {
  absl::MutexLock callback_lock(&callback_mutex_);
  on_cancel_ = std::move(on_cancel);
  const CancelReason reason = cancel_reason();
  if (on_cancel_ && reason != CancelReason::kNone) on_cancel_(reason);
}

CancelReason TaskContext::cancel_reason() const {
  absl::MutexLock lock(&mutex_);
  return reason_;
}

absl::Status TaskContext::CheckCancelled() const {
  switch (cancel_reason()) {
    case CancelReason::kNone:
      return absl::OkStatus();
    case CancelReason::kRevoked:
      return absl::CancelledError("the lease was revoked");
    case CancelReason::kStopping:
      return absl::CancelledError("the worker was told to stop");
  }
  return absl::OkStatus();
}

bool TaskContext::WaitForCancel(absl::Duration timeout) const {
  absl::MutexLock lock(&mutex_);
  const auto cancelled = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return reason_ != CancelReason::kNone;
  };
  return mutex_.AwaitWithTimeout(absl::Condition(&cancelled), timeout);
}

void TaskContext::FillHeartbeat(coordinator::v1::HeartbeatTaskRequest* request) const {
  request->set_progress(progress());
  absl::MutexLock lock(&mutex_);
  request->set_phase(phase_);
  request->set_done(done_);
  request->set_total(total_);
}

}  // namespace d2g::lease

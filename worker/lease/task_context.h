// What a running task and its heartbeat share.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "d2g/coordinator/v1/task_service.pb.h"

namespace d2g::lease {

// Why a task should stop.
enum class CancelReason {
  kNone,
  // The lease is gone or the job was stopped: drop the task, report nothing.
  kRevoked,
  // The worker was told to go away: flush what is done and give the task back.
  kStopping,
};

// Thread-safe. The runner writes progress and looks for cancellation; the heartbeat reads progress
// and cancels.
class TaskContext {
 public:
  // A coordinator renews a lease only while this grows, so call it at every piece of real work (a
  // solver step, an acknowledged batch) and never on a timer.
  void AddProgress(int64_t units = 1) { progress_.fetch_add(units, std::memory_order_relaxed); }
  // A constant, short word: "load", "simulate", "append", "seal".
  void SetPhase(std::string_view phase) ABSL_LOCKS_EXCLUDED(mutex_);
  // For people: `done` of `total` units (triples durable, pictures measured).
  void SetDone(int64_t done, int64_t total) ABSL_LOCKS_EXCLUDED(mutex_);

  // The first reason stays.
  void Cancel(CancelReason reason) ABSL_LOCKS_EXCLUDED(callback_mutex_, mutex_);
  // Cheap: meant for inner loops.
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }
  CancelReason cancel_reason() const ABSL_LOCKS_EXCLUDED(mutex_);
  // CANCELLED once cancelled, else OK.
  absl::Status CheckCancelled() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Called once, on the cancelling thread, with the reason: at once when already cancelled. For
  // ending a blocking call; must be quick and must not call the context. Null takes it back, and
  // returns only when no call is under way.
  void SetOnCancel(std::function<void(CancelReason)> on_cancel)
      ABSL_LOCKS_EXCLUDED(callback_mutex_, mutex_);
  // Whether the task was cancelled within `timeout`.
  bool WaitForCancel(absl::Duration timeout) const ABSL_LOCKS_EXCLUDED(mutex_);

  // Fills phase, progress, done and total.
  void FillHeartbeat(coordinator::v1::HeartbeatTaskRequest* request) const
      ABSL_LOCKS_EXCLUDED(mutex_);
  int64_t progress() const { return progress_.load(std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> progress_ = 0;
  std::atomic<bool> cancelled_ = false;
  // Held while the callback runs; taken before mutex_.
  absl::Mutex callback_mutex_;
  std::function<void(CancelReason)> on_cancel_ ABSL_GUARDED_BY(callback_mutex_);
  mutable absl::Mutex mutex_ ABSL_ACQUIRED_AFTER(callback_mutex_);
  CancelReason reason_ ABSL_GUARDED_BY(mutex_) = CancelReason::kNone;
  std::string phase_ ABSL_GUARDED_BY(mutex_) = "start";
  int64_t done_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t total_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace d2g::lease

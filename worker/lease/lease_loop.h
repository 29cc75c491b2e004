// Leases tasks, runs them one at a time, reports what came of them.
#pragma once

#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "coordinator/client/client.h"
#include "d2g/coordinator/v1/task_service.pb.h"
#include "services/common/clock.h"
#include "services/common/metrics.h"
#include "worker/lease/lease_metrics.h"
#include "worker/lease/task_context.h"

namespace d2g::lease {

// Runs tasks of one kind. Called on the lease loop's work thread, one task at a time.
class TaskRunner {
 public:
  virtual ~TaskRunner() = default;

  virtual coordinator::v1::TaskKind kind() const = 0;
  // Does the task and sets `result->result`. Looks at context->cancelled() at least every few
  // seconds and then returns CANCELLED after flushing what is done. INVALID_ARGUMENT means that the
  // task cannot work anywhere (BAD_INPUT: the job fails); UNAVAILABLE and DEADLINE_EXCEEDED that
  // what it needs to reach does not answer (STORE_UNAVAILABLE: not counted); any other error may
  // not happen elsewhere.
  virtual absl::Status Run(const coordinator::v1::Task& task, TaskContext* context,
                           coordinator::v1::CompleteTaskRequest* result) = 0;
};

// How a loop that was told to stop ended.
enum class LoopEnd {
  // Nothing was open, or it was finished and reported.
  kDone,
  // A task was given back unfinished, or its report was not taken.
  kLeftWork,
  // As kLeftWork, but the work thread did not notice in time: the process should end at once
  // (_Exit).
  kStuck,
};

struct LeaseLoopOptions {
  coordinator::v1::WorkerInfo worker;
  // Deadline of one call.
  absl::Duration rpc_timeout = absl::Seconds(10);
  const common::Clock* clock = common::RealClock::Get();
};

// One work thread that leases, runs and reports, with a heartbeat thread beside each task. A
// coordinator that cannot be reached is waited for with jittered back-off: before a lease, and with
// a result in hand for as long as the loop lives, because a late result of durable work is still
// taken. After a task that failed the next one is asked for at once, because the coordinator knows
// which jobs fail on which nodes; if it is leased a kind that it did not offer, the loop backs off.
// A task that lost the device ends the loop. Thread-safe.
class LeaseLoop {
 public:
  // `client` and `metrics` are not owned and outlive the loop.
  LeaseLoop(LeaseLoopOptions options, coordinator::CoordinatorClient* client,
            std::vector<std::unique_ptr<TaskRunner>> runners, common::Metrics* metrics);
  // Stops without grace: waits for the runner to notice.
  ~LeaseLoop();
  LeaseLoop(const LeaseLoop&) = delete;
  LeaseLoop& operator=(const LeaseLoop&) = delete;

  // Starts the work thread. Call once.
  void Start();
  // Stops leasing, cancels the running task and gives it back as PREEMPTED, even if the runner has
  // not stopped within `grace`.
  LoopEnd Stop(absl::Duration grace) ABSL_LOCKS_EXCLUDED(mutex_);
  // Not OK once the loop has ended by itself, with why. The process should end too.
  absl::Status device() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Work() ABSL_LOCKS_EXCLUDED(mutex_);
  // A task, or how long to wait before asking again.
  absl::StatusOr<coordinator::v1::LeaseTaskResponse> Lease() ABSL_LOCKS_EXCLUDED(mutex_);
  // False when this worker was leased what it cannot run.
  bool RunTask(const coordinator::v1::Task& task) ABSL_LOCKS_EXCLUDED(mutex_);
  // Report until the coordinator has taken or refused it, or the loop has to end.
  void ReportCompleted(const coordinator::v1::CompleteTaskRequest& request)
      ABSL_LOCKS_EXCLUDED(mutex_);
  void ReportFailed(const coordinator::v1::FailTaskRequest& request) ABSL_LOCKS_EXCLUDED(mutex_);
  coordinator::v1::FailTaskRequest Failure(const coordinator::v1::Task& task,
                                           coordinator::v1::FailTaskRequest::Reason reason,
                                           const absl::Status& why) const;
  template <typename Call>
  void CallUntilAnswered(const char* what, Call call) ABSL_LOCKS_EXCLUDED(mutex_);
  void SetLeftWork() ABSL_LOCKS_EXCLUDED(mutex_);
  // Waits; false when the loop should end.
  bool SleepFor(absl::Duration duration) ABSL_LOCKS_EXCLUDED(mutex_);
  // Deadline of the next call: shorter once stopping.
  absl::Time CallDeadline() const ABSL_LOCKS_EXCLUDED(mutex_);

  const LeaseLoopOptions options_;
  coordinator::CoordinatorClient* const client_;
  // Ends a lease call that is retrying, so that a stop does not wait for an absent coordinator.
  absl::Notification stop_leasing_;
  coordinator::CoordinatorClient lease_client_;
  const std::vector<std::unique_ptr<TaskRunner>> runners_;
  LeaseMetrics metrics_;

  mutable absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time stop_deadline_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  // A task was given back because of the stop, or its report was not taken.
  bool left_work_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status device_ ABSL_GUARDED_BY(mutex_);
  // What runs now, for Stop; both null or neither.
  TaskContext* running_context_ ABSL_GUARDED_BY(mutex_) = nullptr;
  const coordinator::v1::Task* running_task_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::thread thread_;
};

}  // namespace d2g::lease

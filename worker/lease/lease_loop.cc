#include "worker/lease/lease_loop.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/deadline.h"
#include "services/common/log.h"
#include "services/common/proto_duration.h"
#include "services/common/retry.h"
#include "services/common/utf8.h"
#include "worker/common/device_lost.h"
#include "worker/lease/heartbeat.h"

namespace d2g::lease {
namespace {

using coordinator::v1::CompleteTaskRequest;
using coordinator::v1::FailTaskRequest;
using coordinator::v1::LeaseTaskResponse;
using coordinator::v1::Task;
using coordinator::v1::TaskKind;

constexpr common::BackoffOptions kRetry = {.initial = absl::Milliseconds(200),
                                           .max = absl::Seconds(10)};
constexpr absl::Duration kRetryWhenStopping = absl::Milliseconds(200);
constexpr absl::Duration kShortestPoll = absl::Milliseconds(20);
// Share of the grace, kept for giving back the task of a runner that does not notice.
constexpr double kReservedGrace = 0.2;

bool WorthRetrying(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnknown:
      return true;
    default:
      return false;
  }
}

FailTaskRequest::Reason ReasonFor(const absl::Status& failure) {
  if (absl::IsInvalidArgument(failure)) return FailTaskRequest::REASON_BAD_INPUT;
  if (common::IsRetryable(failure)) return FailTaskRequest::REASON_STORE_UNAVAILABLE;
  return FailTaskRequest::REASON_ERROR;
}

}  // namespace

LeaseLoop::LeaseLoop(LeaseLoopOptions options, coordinator::CoordinatorClient* client,
                     std::vector<std::unique_ptr<TaskRunner>> runners, common::Metrics* metrics)
    : options_(std::move(options)),
      client_(client),
      lease_client_(client, &stop_leasing_),
      runners_(std::move(runners)),
      metrics_(metrics) {}

LeaseLoop::~LeaseLoop() {
  if (!thread_.joinable()) return;
  Stop(absl::ZeroDuration());
  thread_.join();
}

void LeaseLoop::Start() {
  thread_ = std::thread([this] { Work(); });
}

LoopEnd LeaseLoop::Stop(absl::Duration grace) {
  const absl::Time deadline = common::DeadlineIn(grace);
  FailTaskRequest failure;
  {
    absl::MutexLock lock(&mutex_);
    if (!stopping_) {
      stopping_ = true;
      stop_deadline_ = deadline;
      stop_leasing_.Notify();
    }
    if (running_context_ != nullptr) running_context_->Cancel(CancelReason::kStopping);
    if (mutex_.AwaitWithTimeout(absl::Condition(&ended_),
                                common::TimeLeft(deadline) - kReservedGrace * grace)) {
      return left_work_ ? LoopEnd::kLeftWork : LoopEnd::kDone;
    }
    if (running_task_ == nullptr || grace == absl::ZeroDuration()) return LoopEnd::kStuck;
    failure = Failure(*running_task_, FailTaskRequest::REASON_PREEMPTED,
                      absl::CancelledError("the worker was told to stop"));
  }
  common::LogWarn("the task does not stop in time: giving it back", {{"task", failure.task()}});
  if (const auto answer = client_->FailTask(failure, deadline); !answer.ok()) {
    common::LogWarn("cannot give the task back", {{"error", answer.status()}});
  }
  return LoopEnd::kStuck;
}

void LeaseLoop::SetLeftWork() {
  absl::MutexLock lock(&mutex_);
  left_work_ = true;
}

absl::Status LeaseLoop::device() const {
  absl::MutexLock lock(&mutex_);
  return device_;
}

bool LeaseLoop::SleepFor(absl::Duration duration) {
  absl::MutexLock lock(&mutex_);
  return !mutex_.AwaitWithTimeout(absl::Condition(&stopping_), duration);
}

absl::Time LeaseLoop::CallDeadline() const {
  absl::MutexLock lock(&mutex_);
  return std::min(common::DeadlineIn(options_.rpc_timeout), stop_deadline_);
}

void LeaseLoop::Work() {
  common::Backoff backoff(kRetry);
  common::Backoff misled(kRetry);
  // Spreads the polls of a fleet that found no work at the same moment.
  common::Backoff poll_jitter({.initial = absl::Seconds(1), .max = absl::Seconds(1)});
  while (SleepFor(absl::ZeroDuration()) && device().ok()) {
    const auto leased = Lease();
    if (!leased.ok()) {
      common::LogWarn("cannot lease a task", {{"error", leased.status()}});
      SleepFor(backoff.Next());
      continue;
    }
    backoff.Reset();
    if (leased->has_task()) {
      if (RunTask(leased->task())) {
        misled.Reset();
      } else {
        SleepFor(misled.Next());
      }
    } else {
      const double jitter = absl::ToDoubleSeconds(poll_jitter.Next());
      SleepFor(std::max(common::FromProto(leased->poll_after()) * jitter, kShortestPoll));
    }
  }
  absl::MutexLock lock(&mutex_);
  ended_ = true;
}

absl::StatusOr<LeaseTaskResponse> LeaseLoop::Lease() {
  coordinator::v1::LeaseTaskRequest request;
  *request.mutable_worker() = options_.worker;
  for (const auto& runner : runners_) request.add_kinds(runner->kind());
  auto leased = lease_client_.LeaseTask(request, CallDeadline());
  metrics_.CountLease(!leased.ok() ? "error" : leased->has_task() ? "task" : "none");
  return leased;
}

bool LeaseLoop::RunTask(const Task& task) {
  const TaskKind kind = KindOf(task);
  const auto runner = std::find_if(runners_.begin(), runners_.end(),
                                   [kind](const auto& r) { return r->kind() == kind; });
  if (runner == runners_.end()) {
    ReportFailed(Failure(task, FailTaskRequest::REASON_ERROR,
                         absl::UnimplementedError("this worker does not run tasks of that kind")));
    return false;
  }
  TaskContext context;
  CompleteTaskRequest result;
  {
    absl::MutexLock lock(&mutex_);
    running_context_ = &context;
    running_task_ = &task;
    // A stop that came between the lease and here.
    if (stopping_) context.Cancel(CancelReason::kStopping);
  }
  metrics_.SetRunning(kind);
  common::LogInfo("running a task", {{"task", task.name()}, {"kind", KindName(kind)}});
  const absl::Duration start = options_.clock->SteadyNow();
  absl::Status status;
  {
    TaskHeartbeat heartbeat(task, options_.rpc_timeout, client_, &context, &metrics_);
    status = context.CheckCancelled();
    if (status.ok()) status = (*runner)->Run(task, &context, &result);
  }
  const absl::Duration took = options_.clock->SteadyNow() - start;
  {
    absl::MutexLock lock(&mutex_);
    running_context_ = nullptr;
    running_task_ = nullptr;
  }
  metrics_.SetRunning(coordinator::v1::TASK_KIND_UNSPECIFIED);
  metrics_.ClearProgress();

  if (status.ok()) {
    metrics_.CountTask(kind, "completed", took);
    common::LogInfo("completed a task", {{"task", task.name()}, {"took", took}});
    result.set_task(task.name());
    result.set_lease_id(task.lease_id());
    *result.mutable_worker() = options_.worker;
    coordinator::v1::HeartbeatTaskRequest last;
    context.FillHeartbeat(&last);
    result.set_total(last.total());
    ReportCompleted(result);
    return true;
  }
  switch (context.cancel_reason()) {
    case CancelReason::kRevoked:
      metrics_.CountTask(kind, "revoked", took);
      common::LogInfo("dropped a revoked task", {{"task", task.name()}});
      return true;
    case CancelReason::kStopping:
      metrics_.CountTask(kind, "preempted", took);
      common::LogInfo("giving a task back", {{"task", task.name()}});
      SetLeftWork();
      ReportFailed(Failure(task, FailTaskRequest::REASON_PREEMPTED, status));
      return true;
    case CancelReason::kNone:
      break;
  }
  metrics_.CountTask(kind, "failed", took);
  common::LogError("a task failed", {{"task", task.name()}, {"error", status}});
  ReportFailed(Failure(task, ReasonFor(status), status));
  if (IsDeviceLost(status)) {
    absl::MutexLock lock(&mutex_);
    device_ = status;
  }
  return true;
}

FailTaskRequest LeaseLoop::Failure(const Task& task, FailTaskRequest::Reason reason,
                                   const absl::Status& why) const {
  FailTaskRequest request;
  request.set_task(task.name());
  request.set_lease_id(task.lease_id());
  *request.mutable_worker() = options_.worker;
  request.set_reason(reason);
  request.set_message(common::ValidUtf8(why.message(), common::kMaxFailureBytes));
  return request;
}

// Calls until the coordinator answered (taking or refusing), or a stopping loop is out of time.
template <typename Call>
void LeaseLoop::CallUntilAnswered(const char* what, Call call) {
  common::Backoff backoff(kRetry);
  while (true) {
    const absl::Time deadline = CallDeadline();
    const absl::Status status = call(deadline);
    if (status.ok()) return;
    common::LogWarn("the coordinator did not take a report", {{"report", what}, {"error", status}});
    if (!WorthRetrying(status)) return;
    const absl::Duration wait = backoff.Next();
    // A stop does not wait for a long back-off to pass, only for what is left of the grace.
    if (!SleepFor(wait)) {
      if (common::TimeLeft(CallDeadline()) <= absl::ZeroDuration()) return SetLeftWork();
      absl::SleepFor(std::min(wait, kRetryWhenStopping));
    }
  }
}

void LeaseLoop::ReportCompleted(const CompleteTaskRequest& request) {
  CallUntilAnswered("completed", [&](absl::Time deadline) {
    return client_->CompleteTask(request, deadline).status();
  });
}

void LeaseLoop::ReportFailed(const FailTaskRequest& request) {
  CallUntilAnswered(
      "failed", [&](absl::Time deadline) { return client_->FailTask(request, deadline).status(); });
}

}  // namespace d2g::lease

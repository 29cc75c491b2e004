#include "worker/lease/heartbeat.h"

#include <algorithm>

#include "services/common/deadline.h"
#include "services/common/log.h"
#include "services/common/proto_duration.h"
#include "services/common/retry.h"

namespace d2g::lease {
namespace {

constexpr absl::Duration kShortestInterval = absl::Milliseconds(10);
constexpr absl::Duration kFirstRetry = absl::Milliseconds(200);

}  // namespace

TaskHeartbeat::TaskHeartbeat(const coordinator::v1::Task& task, absl::Duration rpc_timeout,
                             coordinator::CoordinatorClient* client, TaskContext* context,
                             LeaseMetrics* metrics)
    : task_(task.name()),
      lease_id_(task.lease_id()),
      interval_(std::max(common::FromProto(task.heartbeat_interval()), kShortestInterval)),
      rpc_timeout_(rpc_timeout),
      client_(client, &stop_),
      context_(context),
      metrics_(metrics),
      thread_([this] { Run(); }) {}

TaskHeartbeat::~TaskHeartbeat() {
  stop_.Notify();
  thread_.join();
}

void TaskHeartbeat::Run() {
  common::Backoff backoff({.initial = std::min(kFirstRetry, interval_), .max = interval_});
  absl::Duration wait = interval_;
  while (!stop_.WaitForNotificationWithTimeout(wait)) {
    coordinator::v1::HeartbeatTaskRequest request;
    request.set_task(task_);
    request.set_lease_id(lease_id_);
    context_->FillHeartbeat(&request);
    metrics_->SetProgress(request);
    const auto answer = client_.HeartbeatTask(request, common::DeadlineIn(rpc_timeout_));
    if (absl::IsCancelled(answer.status())) return;
    const bool gone = answer.status().code() == absl::StatusCode::kNotFound;
    if (gone || (answer.ok() && answer->revoked())) {
      metrics_->CountHeartbeat("revoked");
      common::LogWarn("the lease was revoked", {{"task", task_}, {"lease_id", lease_id_}});
      context_->Cancel(CancelReason::kRevoked);
      return;
    }
    if (answer.ok()) {
      metrics_->CountHeartbeat("ok");
      backoff.Reset();
      wait = interval_;
    } else {
      metrics_->CountHeartbeat("error");
      common::LogWarn("no heartbeat: the task goes on",
                      {{"task", task_}, {"error", answer.status()}});
      wait = backoff.Next();
    }
  }
}

}  // namespace d2g::lease

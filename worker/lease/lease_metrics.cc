#include "worker/lease/lease_metrics.h"

namespace d2g::lease {
namespace {

using coordinator::v1::TaskKind;

constexpr char kLeases[] = "d2g_worker_lease_requests_total";
constexpr char kLeasesHelp[] = "LeaseTask calls by what came of them";
constexpr char kHeartbeats[] = "d2g_worker_heartbeats_total";
constexpr char kHeartbeatsHelp[] = "Task heartbeats by result";
constexpr char kTasks[] = "d2g_worker_tasks_total";
constexpr char kTasksHelp[] = "Tasks that ended, by kind and how";
constexpr char kTaskSeconds[] = "d2g_worker_task_seconds";
constexpr char kTaskSecondsHelp[] = "How long tasks ran, by kind";
constexpr char kRunning[] = "d2g_worker_running_tasks";
constexpr char kRunningHelp[] = "Tasks that run now, by kind: 0 or 1";

constexpr TaskKind kKinds[] = {coordinator::v1::TASK_KIND_SIMULATE,
                               coordinator::v1::TASK_KIND_EVALUATE,
                               coordinator::v1::TASK_KIND_EXPORT};

// Tasks take minutes.
const std::vector<double>& TaskBuckets() {
  static const auto& buckets =
      *new std::vector<double>{0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1200, 3600};
  return buckets;
}

}  // namespace

const char* KindName(TaskKind kind) {
  switch (kind) {
    case coordinator::v1::TASK_KIND_SIMULATE:
      return "simulate";
    case coordinator::v1::TASK_KIND_EVALUATE:
      return "evaluate";
    case coordinator::v1::TASK_KIND_EXPORT:
      return "export";
    default:
      return "unspecified";
  }
}

TaskKind KindOf(const coordinator::v1::Task& task) {
  using Task = coordinator::v1::Task;
  switch (task.work_case()) {
    case Task::kSimulate:
      return coordinator::v1::TASK_KIND_SIMULATE;
    case Task::kEvaluate:
      return coordinator::v1::TASK_KIND_EVALUATE;
    case Task::kExport:
      return coordinator::v1::TASK_KIND_EXPORT;
    default:
      return coordinator::v1::TASK_KIND_UNSPECIFIED;
  }
}

LeaseMetrics::LeaseMetrics(common::Metrics* metrics)
    : metrics_(metrics),
      progress_(
          metrics->Gauge("d2g_worker_task_progress",
                         "Progress counter of the running task, as last reported; 0 without one")),
      done_(metrics->Gauge(
          "d2g_worker_task_done_units",
          "Units of the running task that are done, as last reported; 0 without one")),
      total_(metrics->Gauge("d2g_worker_task_units",
                            "Units of the running task in all, as last reported; 0 without one")) {
  for (const char* result : {"task", "none", "error"}) {
    metrics_->Counter(kLeases, kLeasesHelp, {{"result", result}});
  }
  for (const char* result : {"ok", "revoked", "error"}) {
    metrics_->Counter(kHeartbeats, kHeartbeatsHelp, {{"result", result}});
  }
  for (const TaskKind kind : kKinds) {
    for (const char* result : {"completed", "failed", "preempted", "revoked"}) {
      metrics_->Counter(kTasks, kTasksHelp, {{"kind", KindName(kind)}, {"result", result}});
    }
    metrics_->Histogram(kTaskSeconds, kTaskSecondsHelp, {{"kind", KindName(kind)}}, TaskBuckets());
  }
  SetRunning(coordinator::v1::TASK_KIND_UNSPECIFIED);
}

void LeaseMetrics::CountLease(const char* result) {
  metrics_->Counter(kLeases, kLeasesHelp, {{"result", result}}).Increment();
}

void LeaseMetrics::CountHeartbeat(const char* result) {
  metrics_->Counter(kHeartbeats, kHeartbeatsHelp, {{"result", result}}).Increment();
}

void LeaseMetrics::CountTask(TaskKind kind, const char* result, absl::Duration took) {
  metrics_->Counter(kTasks, kTasksHelp, {{"kind", KindName(kind)}, {"result", result}}).Increment();
  metrics_->Histogram(kTaskSeconds, kTaskSecondsHelp, {{"kind", KindName(kind)}}, TaskBuckets())
      .Observe(absl::ToDoubleSeconds(took));
}

void LeaseMetrics::SetRunning(TaskKind running) {
  for (const TaskKind kind : kKinds) {
    metrics_->Gauge(kRunning, kRunningHelp, {{"kind", KindName(kind)}})
        .Set(kind == running ? 1 : 0);
  }
}

void LeaseMetrics::SetProgress(const coordinator::v1::HeartbeatTaskRequest& heartbeat) {
  progress_.Set(static_cast<double>(heartbeat.progress()));
  done_.Set(static_cast<double>(heartbeat.done()));
  total_.Set(static_cast<double>(heartbeat.total()));
}

}  // namespace d2g::lease

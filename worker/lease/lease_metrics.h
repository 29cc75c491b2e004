// What a worker exports about its leases.
#pragma once

#include <string>

#include "absl/time/time.h"
#include "d2g/coordinator/v1/task_service.pb.h"
#include "services/common/metrics.h"

namespace d2g::lease {

// "simulate", "evaluate", "export".
const char* KindName(coordinator::v1::TaskKind kind);
// What a task is; UNSPECIFIED when it is none that we know.
coordinator::v1::TaskKind KindOf(const coordinator::v1::Task& task);

// Thread-safe.
class LeaseMetrics {
 public:
  // `metrics` is not owned and outlives this.
  explicit LeaseMetrics(common::Metrics* metrics);

  // result: "task", "none" or "error".
  void CountLease(const char* result);
  // result: "ok", "revoked" or "error".
  void CountHeartbeat(const char* result);
  // result: "completed", "failed", "preempted" or "revoked".
  void CountTask(coordinator::v1::TaskKind kind, const char* result, absl::Duration took);
  // What runs now; UNSPECIFIED: nothing.
  void SetRunning(coordinator::v1::TaskKind kind);
  // The gauges of the running task; ClearProgress once it has ended.
  void SetProgress(const coordinator::v1::HeartbeatTaskRequest& heartbeat);
  void ClearProgress() { SetProgress({}); }

 private:
  common::Metrics* const metrics_;
  prometheus::Gauge& progress_;
  prometheus::Gauge& done_;
  prometheus::Gauge& total_;
};

}  // namespace d2g::lease

// Keeps one task's lease alive while its progress moves.
#pragma once

#include <memory>
#include <thread>

#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "coordinator/client/client.h"
#include "d2g/coordinator/v1/task_service.pb.h"
#include "worker/lease/lease_metrics.h"
#include "worker/lease/task_context.h"

namespace d2g::lease {

// Reports the context's progress every heartbeat_interval on a thread of its own, however busy the
// work is, and cancels the context when the lease was revoked. A coordinator that cannot be reached
// is tried again, with jitter; it never stops the task. Ends with the destructor, which waits for a
// call under way but not for its retries.
class TaskHeartbeat {
 public:
  // Nothing is owned; all outlive this. Calls go where `client`'s go, and refuse a coordinator that
  // it would refuse.
  TaskHeartbeat(const coordinator::v1::Task& task, absl::Duration rpc_timeout,
                coordinator::CoordinatorClient* client, TaskContext* context,
                LeaseMetrics* metrics);
  ~TaskHeartbeat();
  TaskHeartbeat(const TaskHeartbeat&) = delete;
  TaskHeartbeat& operator=(const TaskHeartbeat&) = delete;

 private:
  void Run();

  const std::string task_;
  const int64_t lease_id_;
  const absl::Duration interval_;
  const absl::Duration rpc_timeout_;
  absl::Notification stop_;
  coordinator::CoordinatorClient client_;
  TaskContext* const context_;
  LeaseMetrics* const metrics_;
  std::thread thread_;
};

}  // namespace d2g::lease

// The coordinator's calls that agents make.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "d2g/coordinator/v1/task_service.grpc.pb.h"
#include "d2g/coordinator/v1/training_service.grpc.pb.h"

namespace d2g::agent {

// Thread-safe. One attempt a call, until `deadline`.
class CoordinatorLink {
 public:
  explicit CoordinatorLink(const std::string& address);

  absl::StatusOr<coordinator::v1::LeaseTaskResponse> LeaseTask(
      const coordinator::v1::LeaseTaskRequest& request, absl::Time deadline);
  absl::StatusOr<coordinator::v1::HeartbeatTaskResponse> HeartbeatTask(
      const coordinator::v1::HeartbeatTaskRequest& request, absl::Time deadline);
  absl::StatusOr<coordinator::v1::CompleteTaskResponse> CompleteTask(
      const coordinator::v1::CompleteTaskRequest& request, absl::Time deadline);
  absl::StatusOr<coordinator::v1::FailTaskResponse> FailTask(
      const coordinator::v1::FailTaskRequest& request, absl::Time deadline);
  absl::StatusOr<coordinator::v1::JoinGangResponse> JoinGang(
      const coordinator::v1::JoinGangRequest& request, absl::Time deadline);
  absl::StatusOr<coordinator::v1::GangHeartbeatResponse> GangHeartbeat(
      const coordinator::v1::GangHeartbeatRequest& request, absl::Time deadline);

 private:
  std::unique_ptr<coordinator::v1::TaskService::Stub> tasks_;
  std::unique_ptr<coordinator::v1::TrainingService::Stub> training_;
};

}  // namespace d2g::agent

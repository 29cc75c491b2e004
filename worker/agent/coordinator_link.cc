#include "worker/agent/coordinator_link.h"

#include "absl/time/clock.h"
#include "services/common/channel.h"
#include "services/common/grpc_status.h"

namespace d2g::agent {
namespace {

template <typename Response, typename Stub, typename Request>
absl::StatusOr<Response> Call(Stub& stub,
                              grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                           Response*),
                              const Request& request, absl::Time deadline) {
  grpc::ClientContext context;
  common::SetDeadline(&context, deadline - absl::Now());
  Response response;
  const grpc::Status status = (stub.*method)(&context, request, &response);
  if (!status.ok()) return common::FromGrpcStatus(status);
  return response;
}

}  // namespace

using coordinator::v1::TaskService;
using coordinator::v1::TrainingService;

CoordinatorLink::CoordinatorLink(const std::string& address)
    : tasks_(TaskService::NewStub(common::MakeChannel(address))),
      training_(TrainingService::NewStub(common::MakeChannel(address))) {}

absl::StatusOr<coordinator::v1::LeaseTaskResponse> CoordinatorLink::LeaseTask(
    const coordinator::v1::LeaseTaskRequest& request, absl::Time deadline) {
  return Call(*tasks_, &TaskService::Stub::LeaseTask, request, deadline);
}

absl::StatusOr<coordinator::v1::HeartbeatTaskResponse> CoordinatorLink::HeartbeatTask(
    const coordinator::v1::HeartbeatTaskRequest& request, absl::Time deadline) {
  return Call(*tasks_, &TaskService::Stub::HeartbeatTask, request, deadline);
}

absl::StatusOr<coordinator::v1::CompleteTaskResponse> CoordinatorLink::CompleteTask(
    const coordinator::v1::CompleteTaskRequest& request, absl::Time deadline) {
  return Call(*tasks_, &TaskService::Stub::CompleteTask, request, deadline);
}

absl::StatusOr<coordinator::v1::FailTaskResponse> CoordinatorLink::FailTask(
    const coordinator::v1::FailTaskRequest& request, absl::Time deadline) {
  return Call(*tasks_, &TaskService::Stub::FailTask, request, deadline);
}

absl::StatusOr<coordinator::v1::JoinGangResponse> CoordinatorLink::JoinGang(
    const coordinator::v1::JoinGangRequest& request, absl::Time deadline) {
  return Call(*training_, &TrainingService::Stub::JoinGang, request, deadline);
}

absl::StatusOr<coordinator::v1::GangHeartbeatResponse> CoordinatorLink::GangHeartbeat(
    const coordinator::v1::GangHeartbeatRequest& request, absl::Time deadline) {
  return Call(*training_, &TrainingService::Stub::GangHeartbeat, request, deadline);
}

}  // namespace d2g::agent

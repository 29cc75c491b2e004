// d2g.coordinator.v1.TrainingService over the coordinator.
#pragma once

#include "coordinator/rpc/service_context.h"
#include "d2g/coordinator/v1/training_service.grpc.pb.h"

namespace d2g::coordinator {

// RPC shell: every method is one decision. Thread-safe.
class TrainingServiceShell final : public v1::TrainingService::CallbackService {
 public:
  explicit TrainingServiceShell(const ServiceContext& services) : services_(services) {}

  grpc::ServerUnaryReactor* JoinGang(grpc::CallbackServerContext* context,
                                     const v1::JoinGangRequest* request,
                                     v1::JoinGangResponse* response) override;
  grpc::ServerUnaryReactor* GangHeartbeat(grpc::CallbackServerContext* context,
                                          const v1::GangHeartbeatRequest* request,
                                          v1::GangHeartbeatResponse* response) override;
  grpc::ServerUnaryReactor* CommitCheckpoint(grpc::CallbackServerContext* context,
                                             const v1::CommitCheckpointRequest* request,
                                             v1::CommitCheckpointResponse* response) override;

 private:
  const ServiceContext services_;
};

}  // namespace d2g::coordinator

// d2g.coordinator.v1.ShardService over the coordinator.
#pragma once

#include "coordinator/rpc/service_context.h"
#include "d2g/coordinator/v1/shard_service.grpc.pb.h"

namespace d2g::coordinator {

// RPC shell: every method is one decision. Thread-safe.
class ShardServiceShell final : public v1::ShardService::CallbackService {
 public:
  explicit ShardServiceShell(const ServiceContext& services) : services_(services) {}

  grpc::ServerUnaryReactor* ShardHeartbeat(grpc::CallbackServerContext* context,
                                           const v1::ShardHeartbeatRequest* request,
                                           v1::ShardHeartbeatResponse* response) override;
  grpc::ServerUnaryReactor* ReportSeals(grpc::CallbackServerContext* context,
                                        const v1::ReportSealsRequest* request,
                                        v1::ReportSealsResponse* response) override;

 private:
  const ServiceContext services_;
};

}  // namespace d2g::coordinator

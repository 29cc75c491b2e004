// d2g.coordinator.v1.TaskService over the coordinator.
#pragma once

#include "coordinator/rpc/service_context.h"
#include "d2g/coordinator/v1/task_service.grpc.pb.h"

namespace d2g::coordinator {

// RPC shell: every method is one decision. Thread-safe.
class TaskServiceShell final : public v1::TaskService::CallbackService {
 public:
  explicit TaskServiceShell(const ServiceContext& services) : services_(services) {}

  grpc::ServerUnaryReactor* LeaseTask(grpc::CallbackServerContext* context,
                                      const v1::LeaseTaskRequest* request,
                                      v1::LeaseTaskResponse* response) override;
  grpc::ServerUnaryReactor* HeartbeatTask(grpc::CallbackServerContext* context,
                                          const v1::HeartbeatTaskRequest* request,
                                          v1::HeartbeatTaskResponse* response) override;
  grpc::ServerUnaryReactor* CompleteTask(grpc::CallbackServerContext* context,
                                         const v1::CompleteTaskRequest* request,
                                         v1::CompleteTaskResponse* response) override;
  grpc::ServerUnaryReactor* FailTask(grpc::CallbackServerContext* context,
                                     const v1::FailTaskRequest* request,
                                     v1::FailTaskResponse* response) override;

 private:
  const ServiceContext services_;
};

}  // namespace d2g::coordinator

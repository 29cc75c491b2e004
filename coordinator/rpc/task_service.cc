#include "coordinator/rpc/task_service.h"

namespace d2g::coordinator {

using grpc::CallbackServerContext;
using grpc::ServerUnaryReactor;

ServerUnaryReactor* TaskServiceShell::LeaseTask(CallbackServerContext* context,
                                                const v1::LeaseTaskRequest* request,
                                                v1::LeaseTaskResponse* response) {
  return Answer(services_, context, response,
                [&](ClusterState& state, Moment now) { return state.LeaseTask(*request, now); });
}

ServerUnaryReactor* TaskServiceShell::HeartbeatTask(CallbackServerContext* context,
                                                    const v1::HeartbeatTaskRequest* request,
                                                    v1::HeartbeatTaskResponse* response) {
  return Answer(services_, context, response, [&](ClusterState& state, Moment now) {
    return state.HeartbeatTask(*request, now);
  });
}

ServerUnaryReactor* TaskServiceShell::CompleteTask(CallbackServerContext* context,
                                                   const v1::CompleteTaskRequest* request,
                                                   v1::CompleteTaskResponse* response) {
  return Answer(services_, context, response,
                [&](ClusterState& state, Moment now) { return state.CompleteTask(*request, now); });
}

ServerUnaryReactor* TaskServiceShell::FailTask(CallbackServerContext* context,
                                               const v1::FailTaskRequest* request,
                                               v1::FailTaskResponse* response) {
  return Answer(services_, context, response,
                [&](ClusterState& state, Moment now) { return state.FailTask(*request, now); });
}

}  // namespace d2g::coordinator

#include "coordinator/rpc/training_service.h"

namespace d2g::coordinator {

using grpc::CallbackServerContext;
using grpc::ServerUnaryReactor;

ServerUnaryReactor* TrainingServiceShell::JoinGang(CallbackServerContext* context,
                                                   const v1::JoinGangRequest* request,
                                                   v1::JoinGangResponse* response) {
  return Answer(services_, context, response,
                [&](ClusterState& state, Moment now) { return state.JoinGang(*request, now); });
}

ServerUnaryReactor* TrainingServiceShell::GangHeartbeat(CallbackServerContext* context,
                                                        const v1::GangHeartbeatRequest* request,
                                                        v1::GangHeartbeatResponse* response) {
  return Answer(services_, context, response, [&](ClusterState& state, Moment now) {
    return state.GangHeartbeat(*request, now);
  });
}

ServerUnaryReactor* TrainingServiceShell::CommitCheckpoint(
    CallbackServerContext* context, const v1::CommitCheckpointRequest* request,
    v1::CommitCheckpointResponse* response) {
  return Answer(services_, context, response, [&](ClusterState& state, Moment now) {
    return state.CommitCheckpoint(*request, now);
  });
}

}  // namespace d2g::coordinator

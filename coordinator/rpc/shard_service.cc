#include "coordinator/rpc/shard_service.h"

namespace d2g::coordinator {

using grpc::CallbackServerContext;
using grpc::ServerUnaryReactor;

ServerUnaryReactor* ShardServiceShell::ShardHeartbeat(CallbackServerContext* context,
                                                      const v1::ShardHeartbeatRequest* request,
                                                      v1::ShardHeartbeatResponse* response) {
  return Answer(services_, context, response, [&](ClusterState& state, Moment now) {
    return state.ShardHeartbeat(*request, now);
  });
}

ServerUnaryReactor* ShardServiceShell::ReportSeals(CallbackServerContext* context,
                                                   const v1::ReportSealsRequest* request,
                                                   v1::ReportSealsResponse* response) {
  return Answer(services_, context, response,
                [&](ClusterState& state, Moment now) { return state.ReportSeals(*request, now); });
}

}  // namespace d2g::coordinator

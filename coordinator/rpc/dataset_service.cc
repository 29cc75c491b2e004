#include "coordinator/rpc/dataset_service.h"

namespace d2g::coordinator {

using grpc::CallbackServerContext;
using grpc::ServerUnaryReactor;

ServerUnaryReactor* DatasetServiceShell::GetDataset(CallbackServerContext* context,
                                                    const v1::GetDatasetRequest* request,
                                                    v1::Dataset* response) {
  return Answer(services_, context, response, [&](ClusterState& state, Moment now) {
    return state.GetDataset(request->name(), now);
  });
}

ServerUnaryReactor* DatasetServiceShell::ListDatasets(CallbackServerContext* context,
                                                      const v1::ListDatasetsRequest* request,
                                                      v1::ListDatasetsResponse* response) {
  return Answer(services_, context, response,
                [&](ClusterState& state, Moment now) { return state.ListDatasets(*request, now); });
}

ServerUnaryReactor* DatasetServiceShell::DeleteDataset(CallbackServerContext* context,
                                                       const v1::DeleteDatasetRequest* request,
                                                       google::protobuf::Empty* response) {
  return Answer(services_, context, response,
                [&](ClusterState& state, Moment) { return state.DeleteDataset(request->name()); });
}

ServerUnaryReactor* DatasetServiceShell::GetOrCreateSnapshot(
    CallbackServerContext* context, const v1::GetOrCreateSnapshotRequest* request,
    v1::Snapshot* response) {
  return Answer(services_, context, response,
                [&](ClusterState& state, Moment) { return state.GetOrCreateSnapshot(*request); });
}

}  // namespace d2g::coordinator

// d2g.coordinator.v1.DatasetService over the coordinator.
#pragma once

#include "coordinator/rpc/service_context.h"
#include "d2g/coordinator/v1/dataset_service.grpc.pb.h"

namespace d2g::coordinator {

// RPC shell: every method is one decision. Thread-safe.
class DatasetServiceShell final : public v1::DatasetService::CallbackService {
 public:
  explicit DatasetServiceShell(const ServiceContext& services) : services_(services) {}

  grpc::ServerUnaryReactor* GetDataset(grpc::CallbackServerContext* context,
                                       const v1::GetDatasetRequest* request,
                                       v1::Dataset* response) override;
  grpc::ServerUnaryReactor* ListDatasets(grpc::CallbackServerContext* context,
                                         const v1::ListDatasetsRequest* request,
                                         v1::ListDatasetsResponse* response) override;
  grpc::ServerUnaryReactor* DeleteDataset(grpc::CallbackServerContext* context,
                                          const v1::DeleteDatasetRequest* request,
                                          google::protobuf::Empty* response) override;
  grpc::ServerUnaryReactor* GetOrCreateSnapshot(grpc::CallbackServerContext* context,
                                                const v1::GetOrCreateSnapshotRequest* request,
                                                v1::Snapshot* response) override;

 private:
  const ServiceContext services_;
};

}  // namespace d2g::coordinator

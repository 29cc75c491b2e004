// Client of the coordinator's five services.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "d2g/coordinator/v1/dataset_service.grpc.pb.h"
#include "d2g/coordinator/v1/job_service.grpc.pb.h"
#include "d2g/coordinator/v1/shard_service.grpc.pb.h"
#include "d2g/coordinator/v1/task_service.grpc.pb.h"
#include "d2g/coordinator/v1/training_service.grpc.pb.h"
#include "grpcpp/client_context.h"

namespace d2g::coordinator {

// Initial metadata of every reply: the coordinator's incarnation, a decimal number that grows with
// each of its starts.
inline constexpr char kIncarnationMetadata[] = "d2g-incarnation";

// Thread-safe. Every call blocks and retries while the coordinator cannot be reached, until the
// caller's deadline; then it returns the last error (UNAVAILABLE or DEADLINE_EXCEEDED). A reply
// from an incarnation lower than one seen before (an old process, an old copy of its folder) counts
// as UNAVAILABLE. A deadline in the past makes one attempt. CreateJob without a request_id may make
// two jobs when its answer gets lost.
class CoordinatorClient {
 public:
  // `stop`, when given, ends retrying with CANCELLED once notified; it must outlive the client.
  explicit CoordinatorClient(const std::string& address, const absl::Notification* stop = nullptr);
  // A client of the same coordinator as `peer` that shares what was seen of its incarnation.
  CoordinatorClient(const CoordinatorClient* peer, const absl::Notification* stop);
  CoordinatorClient(const CoordinatorClient&) = delete;
  CoordinatorClient& operator=(const CoordinatorClient&) = delete;

  const std::string& address() const { return address_; }
  // Highest seen; 0 before the first reply.
  uint64_t incarnation() const { return incarnation_->load(); }

  // JobService.
  absl::StatusOr<v1::Job> CreateJob(const v1::CreateJobRequest& request, absl::Time deadline);
  absl::StatusOr<v1::Job> GetJob(const v1::GetJobRequest& request, absl::Time deadline);
  absl::StatusOr<v1::ListJobsResponse> ListJobs(const v1::ListJobsRequest& request,
                                                absl::Time deadline);
  absl::StatusOr<v1::Job> SetDesiredState(const v1::SetDesiredStateRequest& request,
                                          absl::Time deadline);
  absl::Status DeleteJob(const v1::DeleteJobRequest& request, absl::Time deadline);
  absl::StatusOr<v1::ListCheckpointsResponse> ListCheckpoints(
      const v1::ListCheckpointsRequest& request, absl::Time deadline);
  absl::StatusOr<v1::ListTasksResponse> ListTasks(const v1::ListTasksRequest& request,
                                                  absl::Time deadline);
  // Calls changed(job) for each message until the job ends (OK), `changed` returns false
  // (CANCELLED) or the stream breaks: reconnects until nothing was heard for `patience`.
  absl::Status WatchJob(const std::string& name, absl::Duration patience,
                        const std::function<bool(const v1::Job&)>& changed);
  // `text` as common::ParsePromptList takes it. Waits while too many others are being uploaded.
  absl::StatusOr<v1::PromptList> UploadPromptList(absl::string_view text, absl::Time deadline);
  // The list's text, each line ended by \n; DATA_LOSS when it does not have the digest asked for.
  absl::StatusOr<std::string> FetchPromptList(const std::string& digest, absl::Time deadline);

  // DatasetService.
  absl::StatusOr<v1::Dataset> GetDataset(const v1::GetDatasetRequest& request, absl::Time deadline);
  absl::StatusOr<v1::ListDatasetsResponse> ListDatasets(const v1::ListDatasetsRequest& request,
                                                        absl::Time deadline);
  absl::Status DeleteDataset(const v1::DeleteDatasetRequest& request, absl::Time deadline);
  absl::StatusOr<v1::Snapshot> GetOrCreateSnapshot(const v1::GetOrCreateSnapshotRequest& request,
                                                   absl::Time deadline);

  // TaskService.
  absl::StatusOr<v1::LeaseTaskResponse> LeaseTask(const v1::LeaseTaskRequest& request,
                                                  absl::Time deadline);
  absl::StatusOr<v1::HeartbeatTaskResponse> HeartbeatTask(const v1::HeartbeatTaskRequest& request,
                                                          absl::Time deadline);
  absl::StatusOr<v1::CompleteTaskResponse> CompleteTask(const v1::CompleteTaskRequest& request,
                                                        absl::Time deadline);
  absl::StatusOr<v1::FailTaskResponse> FailTask(const v1::FailTaskRequest& request,
                                                absl::Time deadline);

  // TrainingService.
  absl::StatusOr<v1::JoinGangResponse> JoinGang(const v1::JoinGangRequest& request,
                                                absl::Time deadline);
  absl::StatusOr<v1::GangHeartbeatResponse> GangHeartbeat(const v1::GangHeartbeatRequest& request,
                                                          absl::Time deadline);
  absl::StatusOr<v1::CommitCheckpointResponse> CommitCheckpoint(
      const v1::CommitCheckpointRequest& request, absl::Time deadline);

  // ShardService.
  absl::StatusOr<v1::ShardHeartbeatResponse> ShardHeartbeat(
      const v1::ShardHeartbeatRequest& request, absl::Time deadline);
  absl::StatusOr<v1::ReportSealsResponse> ReportSeals(const v1::ReportSealsRequest& request,
                                                      absl::Time deadline);

 private:
  CoordinatorClient(const std::string& address, const absl::Notification* stop,
                    std::shared_ptr<std::atomic<uint64_t>> incarnation);
  // Runs attempt(context) -> grpc::Status until it succeeds; see RetryUntil.
  absl::Status Retry(absl::Time deadline, absl::Duration attempt_timeout,
                     const std::function<grpc::Status(grpc::ClientContext*)>& attempt);
  template <typename Stub, typename Request, typename Response>
  absl::StatusOr<Response> Call(
      Stub* stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
      const Request& request, absl::Time deadline, absl::Duration attempt_timeout);
  // UNAVAILABLE when the reply comes from a lower incarnation than seen.
  absl::Status CheckIncarnation(const grpc::ClientContext& context);

  const std::string address_;
  const absl::Notification* const stop_;
  const std::shared_ptr<std::atomic<uint64_t>> incarnation_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::JobService::Stub> jobs_;
  const std::unique_ptr<v1::DatasetService::Stub> datasets_;
  const std::unique_ptr<v1::TaskService::Stub> tasks_;
  const std::unique_ptr<v1::TrainingService::Stub> training_;
  const std::unique_ptr<v1::ShardService::Stub> shards_;
};

}  // namespace d2g::coordinator

// d2g.coordinator.v1.JobService over the coordinator.
#pragma once

#include "coordinator/rpc/service_context.h"
#include "coordinator/spec/job_output.h"
#include "d2g/coordinator/v1/job_service.grpc.pb.h"

namespace d2g::coordinator {

// RPC shell. CreateJob reads the spec's files on the pool; the streams are reactors of their own
// (job_watch.h, prompt_streams.h); everything else is one decision. Thread-safe.
class JobServiceShell final : public v1::JobService::CallbackService {
 public:
  explicit JobServiceShell(const ServiceContext& services) : services_(services) {}

  grpc::ServerUnaryReactor* CreateJob(grpc::CallbackServerContext* context,
                                      const v1::CreateJobRequest* request,
                                      v1::Job* response) override;
  grpc::ServerUnaryReactor* GetJob(grpc::CallbackServerContext* context,
                                   const v1::GetJobRequest* request, v1::Job* response) override;
  grpc::ServerUnaryReactor* ListJobs(grpc::CallbackServerContext* context,
                                     const v1::ListJobsRequest* request,
                                     v1::ListJobsResponse* response) override;
  grpc::ServerWriteReactor<v1::Job>* WatchJob(grpc::CallbackServerContext* context,
                                              const v1::WatchJobRequest* request) override;
  grpc::ServerUnaryReactor* SetDesiredState(grpc::CallbackServerContext* context,
                                            const v1::SetDesiredStateRequest* request,
                                            v1::Job* response) override;
  grpc::ServerUnaryReactor* DeleteJob(grpc::CallbackServerContext* context,
                                      const v1::DeleteJobRequest* request,
                                      google::protobuf::Empty* response) override;
  grpc::ServerUnaryReactor* ListCheckpoints(grpc::CallbackServerContext* context,
                                            const v1::ListCheckpointsRequest* request,
                                            v1::ListCheckpointsResponse* response) override;
  grpc::ServerUnaryReactor* ListTasks(grpc::CallbackServerContext* context,
                                      const v1::ListTasksRequest* request,
                                      v1::ListTasksResponse* response) override;
  grpc::ServerReadReactor<v1::UploadPromptListRequest>* UploadPromptList(
      grpc::CallbackServerContext* context, v1::PromptList* response) override;
  grpc::ServerWriteReactor<v1::GetPromptListResponse>* GetPromptList(
      grpc::CallbackServerContext* context, const v1::GetPromptListRequest* request) override;

 private:
  // The part of CreateJob that reads files.
  void CheckAndCreate(const v1::CreateJobRequest& request, grpc::ServerUnaryReactor* reactor,
                      v1::Job* response);
  // Who has output where the proposal wants to have it: says what is wrong with that, and fills in
  // output_path and replaces.
  std::vector<common::FieldViolation> FindOutput(JobProposal* proposal);

  const ServiceContext services_;
};

}  // namespace d2g::coordinator

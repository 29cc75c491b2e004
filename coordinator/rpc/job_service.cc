#include "coordinator/rpc/job_service.h"

#include "coordinator/rows/limits.h"
#include "coordinator/rpc/job_watch.h"
#include "coordinator/rpc/prompt_streams.h"
#include "coordinator/spec/job_inputs.h"
#include "coordinator/spec/job_spec.h"
#include "services/spec/normal_spec.h"

namespace d2g::coordinator {

using grpc::CallbackServerContext;
using grpc::ServerUnaryReactor;

ServerUnaryReactor* JobServiceShell::CreateJob(CallbackServerContext* context,
                                               const v1::CreateJobRequest* request,
                                               v1::Job* response) {
  SendIncarnation(services_, context);
  ServerUnaryReactor* reactor = context->DefaultReactor();
  // Request and response live until the reactor is finished.
  if (!services_.pool->TrySchedule(
          [this, request, reactor, response] { CheckAndCreate(*request, reactor, response); })) {
    reactor->Finish(grpc::Status(grpc::StatusCode::UNAVAILABLE,
                                 "too many jobs are being checked at once; try again"));
  }
  return reactor;
}

void JobServiceShell::CheckAndCreate(const v1::CreateJobRequest& request,
                                     ServerUnaryReactor* reactor, v1::Job* response) {
  if (request.request_id().size() > kMaxRequestIdBytes) {
    reactor->Finish(common::ToGrpcStatus(common::BadRequest(
        {{"request_id", absl::StrCat("has ", request.request_id().size(), " bytes; at most ",
                                     kMaxRequestIdBytes)}})));
    return;
  }
  JobProposal proposal;
  proposal.spec = request.spec();
  proposal.request_id = request.request_id();
  proposal.validate_only = request.validate_only();
  auto violations = spec::NormalizeSpec(&proposal.spec);
  // A repeat gets its job even when the files have changed or gone.
  if (!request.validate_only()) {
    const auto find = [&](ClusterState& state, Moment now) {
      return state.FindRequest(request.request_id(), proposal.spec, now);
    };
    if (!absl::IsNotFound(services_.coordinator->Decide(find).result.status())) {
      FinishWhenDurable(services_, reactor, response, find);
      return;
    }
  }
  if (violations.empty()) {
    JobInputs inputs = CheckJobInputs(proposal.spec, *services_.paths);
    proposal.teacher = std::move(inputs.teacher);
    violations = std::move(inputs.violations);
  }
  if (violations.empty()) {
    violations = FindOutput(&proposal);
  }
  if (!violations.empty()) {
    reactor->Finish(common::ToGrpcStatus(common::BadRequest(violations)));
    return;
  }
  FinishWhenDurable(services_, reactor, response, [&](ClusterState& state, Moment now) {
    return state.CreateJob(proposal, now);
  });
}

std::vector<common::FieldViolation> JobServiceShell::FindOutput(JobProposal* proposal) {
  const auto path = common::ResolvePath(proposal->spec.output_dir());
  if (!path.ok()) return {{"spec.output_dir", std::string(path.status().message())}};
  proposal->output_path = *path;
  std::vector<KnownOutput> ended;
  // A job that has not ended is named as such, whatever it has written by now.
  const auto in_use = services_.coordinator->Decide([&](ClusterState& state, Moment) {
    ended = state.jobs().EndedOutputs(*path);
    return state.jobs().OutputProblem(*proposal);
  });
  if (!in_use.result.empty()) return {{"spec.output_dir", in_use.result}};
  JobOutput output = CheckJobOutput(proposal->spec, *path, ended);
  proposal->replaces = std::move(output.replaces);
  return std::move(output.violations);
}

ServerUnaryReactor* JobServiceShell::GetJob(CallbackServerContext* context,
                                            const v1::GetJobRequest* request, v1::Job* response) {
  return Answer(services_, context, response, [&](ClusterState& state, Moment now) {
    return state.GetJob(request->name(), now);
  });
}

ServerUnaryReactor* JobServiceShell::ListJobs(CallbackServerContext* context,
                                              const v1::ListJobsRequest* request,
                                              v1::ListJobsResponse* response) {
  return Answer(services_, context, response,
                [&](ClusterState& state, Moment now) { return state.ListJobs(*request, now); });
}

grpc::ServerWriteReactor<v1::Job>* JobServiceShell::WatchJob(CallbackServerContext* context,
                                                             const v1::WatchJobRequest* request) {
  SendIncarnation(services_, context);
  return services_.watches->Watch(request->name());
}

ServerUnaryReactor* JobServiceShell::SetDesiredState(CallbackServerContext* context,
                                                     const v1::SetDesiredStateRequest* request,
                                                     v1::Job* response) {
  return Answer(services_, context, response, [&](ClusterState& state, Moment now) {
    return state.SetDesiredState(*request, now);
  });
}

ServerUnaryReactor* JobServiceShell::DeleteJob(CallbackServerContext* context,
                                               const v1::DeleteJobRequest* request,
                                               google::protobuf::Empty* response) {
  return Answer(services_, context, response,
                [&](ClusterState& state, Moment) { return state.DeleteJob(request->name()); });
}

ServerUnaryReactor* JobServiceShell::ListCheckpoints(CallbackServerContext* context,
                                                     const v1::ListCheckpointsRequest* request,
                                                     v1::ListCheckpointsResponse* response) {
  return Answer(services_, context, response,
                [&](ClusterState& state, Moment) { return state.ListCheckpoints(*request); });
}

ServerUnaryReactor* JobServiceShell::ListTasks(CallbackServerContext* context,
                                               const v1::ListTasksRequest* request,
                                               v1::ListTasksResponse* response) {
  return Answer(services_, context, response,
                [&](ClusterState& state, Moment) { return state.ListTasks(*request); });
}

grpc::ServerReadReactor<v1::UploadPromptListRequest>* JobServiceShell::UploadPromptList(
    CallbackServerContext* context, v1::PromptList* response) {
  SendIncarnation(services_, context);
  return services_.uploads->Accept(context, response);
}

grpc::ServerWriteReactor<v1::GetPromptListResponse>* JobServiceShell::GetPromptList(
    CallbackServerContext* context, const v1::GetPromptListRequest* request) {
  SendIncarnation(services_, context);
  return new PromptDownload(services_, request->digest());
}

}  // namespace d2g::coordinator

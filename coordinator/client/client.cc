#include "coordinator/client/client.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "services/common/channel.h"
#include "services/common/deadline.h"
#include "services/common/digest.h"
#include "services/common/grpc_status.h"
#include "services/common/prompts.h"
#include "services/common/retry.h"
#include "services/common/status_macros.h"

namespace d2g::coordinator {
namespace {

constexpr absl::Duration kAttempt = absl::Seconds(10);
// CreateJob reads the teacher's weights.
constexpr absl::Duration kCreateAttempt = absl::Minutes(10);
constexpr absl::Duration kTransferAttempt = absl::Minutes(2);
constexpr absl::Duration kMinAttempt = absl::Milliseconds(200);

// This client never cancels a call whose status it looks at.
using common::FromServer;

}  // namespace

CoordinatorClient::CoordinatorClient(const std::string& address, const absl::Notification* stop)
    : CoordinatorClient(address, stop, std::make_shared<std::atomic<uint64_t>>(0)) {}

CoordinatorClient::CoordinatorClient(const CoordinatorClient* peer, const absl::Notification* stop)
    : CoordinatorClient(peer->address_, stop, peer->incarnation_) {}

CoordinatorClient::CoordinatorClient(const std::string& address, const absl::Notification* stop,
                                     std::shared_ptr<std::atomic<uint64_t>> incarnation)
    : address_(address),
      stop_(stop),
      incarnation_(std::move(incarnation)),
      channel_(common::MakeChannel(address)),
      jobs_(v1::JobService::NewStub(channel_)),
      datasets_(v1::DatasetService::NewStub(channel_)),
      tasks_(v1::TaskService::NewStub(channel_)),
      training_(v1::TrainingService::NewStub(channel_)),
      shards_(v1::ShardService::NewStub(channel_)) {}

absl::Status CoordinatorClient::CheckIncarnation(const grpc::ClientContext& context) {
  const auto& metadata = context.GetServerInitialMetadata();
  const auto it = metadata.find(kIncarnationMetadata);
  uint64_t replied = 0;
  if (it == metadata.end() ||
      !absl::SimpleAtoi(absl::string_view(it->second.data(), it->second.size()), &replied)) {
    return absl::OkStatus();  // an error that never reached a handler
  }
  uint64_t seen = incarnation_->load();
  while (replied > seen && !incarnation_->compare_exchange_weak(seen, replied)) {
  }
  if (replied < seen) {
    return absl::UnavailableError(absl::StrCat("coordinator ", address_, " has incarnation ",
                                               replied, ", lower than ", seen,
                                               ", which was seen before"));
  }
  return absl::OkStatus();
}

absl::Status CoordinatorClient::Retry(
    absl::Time deadline, absl::Duration attempt_timeout,
    const std::function<grpc::Status(grpc::ClientContext*)>& attempt) {
  common::RetryOptions options;
  options.stop = stop_;
  const absl::Status status = common::RetryUntil(
      deadline,
      [&]() -> absl::Status {
        grpc::ClientContext context;
        common::SetDeadline(&context,
                            std::clamp(common::TimeLeft(deadline), kMinAttempt, attempt_timeout));
        const absl::Status result = FromServer(attempt(&context));
        D2G_RETURN_IF_ERROR(CheckIncarnation(context));
        return result;
      },
      options);
  return common::IsRetryable(status)
             ? common::Annotate(status, absl::StrCat("coordinator ", address_))
             : status;
}

template <typename Stub, typename Request, typename Response>
absl::StatusOr<Response> CoordinatorClient::Call(
    Stub* stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
    const Request& request, absl::Time deadline, absl::Duration attempt_timeout) {
  Response response;
  D2G_RETURN_IF_ERROR(Retry(deadline, attempt_timeout, [&](grpc::ClientContext* context) {
    response.Clear();
    return (stub->*method)(context, request, &response);
  }));
  return response;
}

// Defines CoordinatorClient::Method, which forwards to `stub`.
#define D2G_FORWARD(Service, stub, Method, Response, timeout)                                \
  absl::StatusOr<v1::Response> CoordinatorClient::Method(const v1::Method##Request& request, \
                                                         absl::Time deadline) {              \
    return Call(stub.get(), &v1::Service::Stub::Method, request, deadline, timeout);         \
  }

D2G_FORWARD(JobService, jobs_, CreateJob, Job, kCreateAttempt)
D2G_FORWARD(JobService, jobs_, GetJob, Job, kAttempt)
D2G_FORWARD(JobService, jobs_, ListJobs, ListJobsResponse, kAttempt)
D2G_FORWARD(JobService, jobs_, SetDesiredState, Job, kAttempt)
D2G_FORWARD(JobService, jobs_, ListCheckpoints, ListCheckpointsResponse, kAttempt)
D2G_FORWARD(JobService, jobs_, ListTasks, ListTasksResponse, kAttempt)
D2G_FORWARD(DatasetService, datasets_, GetDataset, Dataset, kAttempt)
D2G_FORWARD(DatasetService, datasets_, ListDatasets, ListDatasetsResponse, kAttempt)
D2G_FORWARD(DatasetService, datasets_, GetOrCreateSnapshot, Snapshot, kAttempt)
D2G_FORWARD(TaskService, tasks_, LeaseTask, LeaseTaskResponse, kAttempt)
D2G_FORWARD(TaskService, tasks_, HeartbeatTask, HeartbeatTaskResponse, kAttempt)
D2G_FORWARD(TaskService, tasks_, CompleteTask, CompleteTaskResponse, kAttempt)
D2G_FORWARD(TaskService, tasks_, FailTask, FailTaskResponse, kAttempt)
D2G_FORWARD(TrainingService, training_, JoinGang, JoinGangResponse, kAttempt)
D2G_FORWARD(TrainingService, training_, GangHeartbeat, GangHeartbeatResponse, kAttempt)
D2G_FORWARD(TrainingService, training_, CommitCheckpoint, CommitCheckpointResponse, kAttempt)
D2G_FORWARD(ShardService, shards_, ShardHeartbeat, ShardHeartbeatResponse, kAttempt)
D2G_FORWARD(ShardService, shards_, ReportSeals, ReportSealsResponse, kAttempt)

#undef D2G_FORWARD

absl::Status CoordinatorClient::DeleteJob(const v1::DeleteJobRequest& request,
                                          absl::Time deadline) {
  return Call(jobs_.get(), &v1::JobService::Stub::DeleteJob, request, deadline, kAttempt).status();
}

absl::Status CoordinatorClient::DeleteDataset(const v1::DeleteDatasetRequest& request,
                                              absl::Time deadline) {
  return Call(datasets_.get(), &v1::DatasetService::Stub::DeleteDataset, request, deadline,
              kAttempt)
      .status();
}

absl::Status CoordinatorClient::WatchJob(const std::string& name, absl::Duration patience,
                                         const std::function<bool(const v1::Job&)>& changed) {
  v1::WatchJobRequest request;
  request.set_name(name);
  while (true) {
    bool stopped = false;
    bool heard = false;
    // One stream for each round: a message renews the patience.
    const absl::Status status = common::RetryUntil(
        common::DeadlineIn(patience),
        [&]() -> absl::Status {
          grpc::ClientContext context;  // no deadline: keep-alive finds a dead connection
          const auto reader = jobs_->WatchJob(&context, request);
          v1::Job job;
          while (!stopped && reader->Read(&job)) {
            if (!heard) D2G_RETURN_IF_ERROR(CheckIncarnation(context));
            heard = true;
            stopped = !changed(job);
          }
          if (stopped) context.TryCancel();
          const absl::Status ended = FromServer(reader->Finish());
          if (stopped) return absl::CancelledError("the caller stopped watching");
          // A stream that said something and broke starts a new round.
          return heard && common::IsRetryable(ended) ? absl::OkStatus() : ended;
        },
        {.stop = stop_});
    if (!status.ok()) return status;
    v1::GetJobRequest get;
    get.set_name(name);
    D2G_ASSIGN_OR_RETURN(const v1::Job job, GetJob(get, common::DeadlineIn(patience)));
    if (job.state() == v1::Job::STATE_SUCCEEDED || job.state() == v1::Job::STATE_FAILED ||
        job.state() == v1::Job::STATE_CANCELLED) {
      return absl::OkStatus();
    }
  }
}

absl::StatusOr<v1::PromptList> CoordinatorClient::UploadPromptList(absl::string_view text,
                                                                   absl::Time deadline) {
  v1::PromptList list;
  D2G_RETURN_IF_ERROR(Retry(deadline, kTransferAttempt, [&](grpc::ClientContext* context) {
    list.Clear();
    const auto writer = jobs_->UploadPromptList(context, &list);
    for (size_t at = 0; at < text.size(); at += common::kPromptChunkBytes) {
      v1::UploadPromptListRequest request;
      request.set_chunk(std::string(text.substr(at, common::kPromptChunkBytes)));
      if (!writer->Write(request)) break;
    }
    writer->WritesDone();
    grpc::Status status = writer->Finish();
    // Others are uploading: their turn first.
    return status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED
               ? grpc::Status(grpc::StatusCode::UNAVAILABLE, status.error_message())
               : status;
  }));
  return list;
}

absl::StatusOr<std::string> CoordinatorClient::FetchPromptList(const std::string& digest,
                                                               absl::Time deadline) {
  v1::GetPromptListRequest request;
  request.set_digest(digest);
  std::string text;
  D2G_RETURN_IF_ERROR(Retry(deadline, kTransferAttempt, [&](grpc::ClientContext* context) {
    text.clear();
    const auto reader = jobs_->GetPromptList(context, request);
    v1::GetPromptListResponse response;
    while (reader->Read(&response)) text += response.chunk();
    return reader->Finish();
  }));
  if (const std::string found = "xxh3-128:" + common::Xxh3Hex128(text); found != digest) {
    return absl::DataLossError(
        absl::StrCat("prompt list ", digest, " arrived with digest ", found));
  }
  return text;
}

}  // namespace d2g::coordinator

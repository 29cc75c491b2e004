#include "coordinator/rpc/job_watch.h"

#include <algorithm>
#include <utility>

#include "services/common/grpc_status.h"

namespace d2g::coordinator {
namespace {

bool Final(const v1::Job& job) {
  return job.state() == v1::Job::STATE_SUCCEEDED || job.state() == v1::Job::STATE_FAILED ||
         job.state() == v1::Job::STATE_CANCELLED;
}

}  // namespace

void JobWatch::Poke() {
  {
    absl::MutexLock lock(&mutex_);
    if (looking_ || writing_ || ending_) return;
    looking_ = true;
  }
  auto decided = services_.coordinator->Decide(
      [&](ClusterState& state, Moment now) { return state.GetJob(name_, now); });
  services_.committer->WhenDurable(
      decided.sequence,
      [self = shared_from_this(), job = std::move(decided.result)](const absl::Status& durable) {
        self->Send(durable.ok() ? job : absl::StatusOr<v1::Job>(durable));
      });
}

void JobWatch::Send(absl::StatusOr<v1::Job> job) {
  if (!job.ok()) {
    End(common::ToGrpcStatus(job.status()));
    return;
  }
  const std::string bytes = job->SerializeAsString();
  bool last = false;
  {
    absl::MutexLock lock(&mutex_);
    looking_ = false;
    if (ending_ || bytes == sent_) return;
    sent_ = bytes;
    last = Final(*job);
    writing_ = true;
    ending_ = last;
  }
  job_ = *std::move(job);
  if (last) {
    StartWriteAndFinish(&job_, grpc::WriteOptions(), grpc::Status::OK);
  } else {
    StartWrite(&job_);
  }
}

void JobWatch::End(const grpc::Status& status) {
  {
    absl::MutexLock lock(&mutex_);
    if (ending_) return;
    ending_ = true;
    end_ = status;
    if (writing_) return;  // OnWriteDone finishes
  }
  Finish(status);
}

void JobWatch::Stop() {
  End(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the coordinator is stopping"));
}

void JobWatch::OnWriteDone(bool ok) {
  grpc::Status status;
  {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    if (!ending_) {
      if (ok) return;
      ending_ = true;
      end_ = grpc::Status(grpc::StatusCode::CANCELLED, "the client went away");
    }
    status = end_;
  }
  Finish(status);
}

void JobWatch::OnCancel() {
  End(grpc::Status(grpc::StatusCode::CANCELLED, "the client went away"));
}

void JobWatch::OnDone() {
  // The last reference may go here.
  const std::shared_ptr<JobWatch> self = std::move(self_);
}

JobWatch* WatchHub::Watch(const std::string& name) {
  const auto watch = std::make_shared<JobWatch>(*services_, name);
  watch->Begin();
  bool stopped = false;
  {
    absl::MutexLock lock(&mutex_);
    stopped = stopped_;
    watches_.push_back(watch);
  }
  if (stopped) {
    watch->Stop();
  } else {
    watch->Poke();
  }
  return watch.get();
}

std::vector<std::shared_ptr<JobWatch>> WatchHub::Live() {
  std::vector<std::shared_ptr<JobWatch>> live;
  absl::MutexLock lock(&mutex_);
  std::erase_if(watches_, [&](const std::weak_ptr<JobWatch>& weak) {
    auto watch = weak.lock();
    if (watch == nullptr) return true;
    live.push_back(std::move(watch));
    return false;
  });
  return live;
}

void WatchHub::Poke() {
  for (const auto& watch : Live()) watch->Poke();
}

void WatchHub::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopped_ = true;
  }
  for (const auto& watch : Live()) watch->Stop();
}

}  // namespace d2g::coordinator

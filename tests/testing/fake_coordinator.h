// A coordinator for tests of agents: a real gRPC server whose answers the test sets.
#pragma once

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "coordinator/client/client.h"
#include "d2g/coordinator/v1/job_service.grpc.pb.h"
#include "d2g/coordinator/v1/task_service.grpc.pb.h"
#include "d2g/coordinator/v1/training_service.grpc.pb.h"
#include "gtest/gtest.h"
#include "services/common/rpc_server.h"

namespace d2g::testing {

// Hands out the tasks given to it, each once, and records what is reported. Thread-safe.
class FakeTaskService final : public coordinator::v1::TaskService::Service {
 public:
  void AddTask(const coordinator::v1::Task& task) {
    absl::MutexLock lock(&mutex_);
    tasks_.push_back(task);
  }
  void Revoke() {
    absl::MutexLock lock(&mutex_);
    revoked_ = true;
  }
  // What replies to leases and heartbeats say from now on.
  void SetIncarnation(int incarnation) {
    absl::MutexLock lock(&mutex_);
    incarnation_ = incarnation;
  }
  std::vector<coordinator::v1::HeartbeatTaskRequest> heartbeats() const {
    absl::MutexLock lock(&mutex_);
    return heartbeats_;
  }
  std::vector<coordinator::v1::CompleteTaskRequest> completed() const {
    absl::MutexLock lock(&mutex_);
    return completed_;
  }
  std::vector<coordinator::v1::FailTaskRequest> failed() const {
    absl::MutexLock lock(&mutex_);
    return failed_;
  }
  int lease_calls() const {
    absl::MutexLock lock(&mutex_);
    return lease_calls_;
  }

  grpc::Status LeaseTask(grpc::ServerContext* context, const coordinator::v1::LeaseTaskRequest*,
                         coordinator::v1::LeaseTaskResponse* response) override {
    absl::MutexLock lock(&mutex_);
    AddIncarnation(context);
    ++lease_calls_;
    response->mutable_poll_after()->set_nanos(20'000'000);
    if (tasks_.empty()) return grpc::Status::OK;
    *response->mutable_task() = tasks_.front();
    tasks_.pop_front();
    return grpc::Status::OK;
  }
  grpc::Status HeartbeatTask(grpc::ServerContext* context,
                             const coordinator::v1::HeartbeatTaskRequest* request,
                             coordinator::v1::HeartbeatTaskResponse* response) override {
    absl::MutexLock lock(&mutex_);
    AddIncarnation(context);
    heartbeats_.push_back(*request);
    response->set_revoked(revoked_);
    return grpc::Status::OK;
  }
  grpc::Status CompleteTask(grpc::ServerContext*,
                            const coordinator::v1::CompleteTaskRequest* request,
                            coordinator::v1::CompleteTaskResponse*) override {
    absl::MutexLock lock(&mutex_);
    completed_.push_back(*request);
    return grpc::Status::OK;
  }
  grpc::Status FailTask(grpc::ServerContext*, const coordinator::v1::FailTaskRequest* request,
                        coordinator::v1::FailTaskResponse*) override {
    absl::MutexLock lock(&mutex_);
    failed_.push_back(*request);
    return grpc::Status::OK;
  }

 private:
  void AddIncarnation(grpc::ServerContext* context) const ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    if (incarnation_ == 0) return;
    context->AddInitialMetadata(coordinator::kIncarnationMetadata, absl::StrCat(incarnation_));
  }

  mutable absl::Mutex mutex_;
  int incarnation_ ABSL_GUARDED_BY(mutex_) = 0;
  std::deque<coordinator::v1::Task> tasks_ ABSL_GUARDED_BY(mutex_);
  bool revoked_ ABSL_GUARDED_BY(mutex_) = false;
  int lease_calls_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<coordinator::v1::HeartbeatTaskRequest> heartbeats_ ABSL_GUARDED_BY(mutex_);
  std::vector<coordinator::v1::CompleteTaskRequest> completed_ ABSL_GUARDED_BY(mutex_);
  std::vector<coordinator::v1::FailTaskRequest> failed_ ABSL_GUARDED_BY(mutex_);
};

// Answers every heartbeat as the test says and keeps the reports. Knows no agent until it joins.
// Thread-safe.
class FakeTrainingService final : public coordinator::v1::TrainingService::Service {
 public:
  using Request = coordinator::v1::GangHeartbeatRequest;
  using Response = coordinator::v1::GangHeartbeatResponse;

  void SetAnswer(const Response& answer) {
    absl::MutexLock lock(&mutex_);
    answer_ = answer;
  }
  // Adds the address that a report brought to the answers that follow, as a coordinator does.
  void SetShareRendezvous(bool share) {
    absl::MutexLock lock(&mutex_);
    share_rendezvous_ = share;
  }
  // Forgets the agents, as a restart without rows does.
  void Forget() {
    absl::MutexLock lock(&mutex_);
    joined_.clear();
  }
  std::vector<Request> reports() const {
    absl::MutexLock lock(&mutex_);
    return reports_;
  }
  Request last() const {
    absl::MutexLock lock(&mutex_);
    return reports_.empty() ? Request() : reports_.back();
  }
  std::vector<coordinator::v1::JoinGangRequest> joins() const {
    absl::MutexLock lock(&mutex_);
    return joins_;
  }

  grpc::Status JoinGang(grpc::ServerContext*, const coordinator::v1::JoinGangRequest* request,
                        coordinator::v1::JoinGangResponse* response) override {
    absl::MutexLock lock(&mutex_);
    joins_.push_back(*request);
    joined_.push_back(request->agent());
    response->mutable_heartbeat_interval()->set_nanos(50'000'000);
    return grpc::Status::OK;
  }
  grpc::Status GangHeartbeat(grpc::ServerContext*, const Request* request,
                             Response* response) override {
    absl::MutexLock lock(&mutex_);
    if (std::find(joined_.begin(), joined_.end(), request->agent()) == joined_.end()) {
      return grpc::Status(grpc::StatusCode::NOT_FOUND, "join first");
    }
    reports_.push_back(*request);
    if (share_rendezvous_ && !request->rendezvous().empty()) {
      answer_.mutable_assignment()->set_rendezvous(request->rendezvous());
    }
    *response = answer_;
    return grpc::Status::OK;
  }

 private:
  mutable absl::Mutex mutex_;
  Response answer_ ABSL_GUARDED_BY(mutex_);
  bool share_rendezvous_ ABSL_GUARDED_BY(mutex_) = true;
  std::vector<std::string> joined_ ABSL_GUARDED_BY(mutex_);
  std::vector<coordinator::v1::JoinGangRequest> joins_ ABSL_GUARDED_BY(mutex_);
  std::vector<Request> reports_ ABSL_GUARDED_BY(mutex_);
};

// Serves prompt lists. Thread-safe.
class FakeJobService final : public coordinator::v1::JobService::Service {
 public:
  void AddPromptList(const std::string& digest, const std::string& text) {
    absl::MutexLock lock(&mutex_);
    lists_[digest] = text;
  }

  grpc::Status GetPromptList(
      grpc::ServerContext*, const coordinator::v1::GetPromptListRequest* request,
      grpc::ServerWriter<coordinator::v1::GetPromptListResponse>* writer) override {
    coordinator::v1::GetPromptListResponse chunk;
    {
      absl::MutexLock lock(&mutex_);
      const auto it = lists_.find(request->digest());
      if (it == lists_.end()) return grpc::Status(grpc::StatusCode::NOT_FOUND, "no such list");
      chunk.set_chunk(it->second);
    }
    writer->Write(chunk);
    return grpc::Status::OK;
  }

 private:
  absl::Mutex mutex_;
  std::map<std::string, std::string> lists_ ABSL_GUARDED_BY(mutex_);
};

// All services on one port, which stays the same over restarts. Not thread-safe.
class FakeCoordinator {
 public:
  FakeCoordinator() { Start(); }

  void Stop() { server_.reset(); }
  void Start() {
    auto server = common::RpcServer::Start(
        address_, {common::Serve<coordinator::v1::JobService>(&jobs_),
                   common::Serve<coordinator::v1::TaskService>(&tasks_),
                   common::Serve<coordinator::v1::TrainingService>(&training_)});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    address_ = server_->address();
  }

  const std::string& address() const { return address_; }
  FakeJobService& jobs() { return jobs_; }
  FakeTaskService& tasks() { return tasks_; }
  FakeTrainingService& training() { return training_; }

 private:
  FakeJobService jobs_;
  FakeTaskService tasks_;
  FakeTrainingService training_;
  std::string address_ = "127.0.0.1:0";
  std::unique_ptr<common::RpcServer> server_;
};

}  // namespace d2g::testing

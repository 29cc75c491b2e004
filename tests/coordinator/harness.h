// A decider without servers, for tests of what it decides: fake time, rows kept by the test, and
// the requests that workers, shards and agents would send.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "coordinator/decider/coordinator.h"
#include "coordinator/spec/job_spec.h"
#include "gtest/gtest.h"
#include "services/common/clock.h"
#include "services/spec/normal_spec.h"

namespace d2g::coordinator {

inline constexpr char kPrompts[] = "xxh3-128:00112233445566778899aabbccddeeff";
inline constexpr char kTeacher[] = "xxh3-128:ffeeddccbbaa99887766554433221100";

// Applies changes at once: what a disk would hold if every decision were synced.
class MapRows : public RowSink {
 public:
  int64_t Enqueue(RowChanges changes) override {
    for (RowChange& change : changes) {
      if (change.set_aside) {
        rows_.erase(change.key);
        aside_[change.key] = *std::move(change.value);
      } else if (change.value.has_value()) {
        rows_[change.key] = *std::move(change.value);
      } else {
        rows_.erase(change.key);
      }
    }
    return ++sequence_;
  }
  RowChanges Scan() const {
    RowChanges all;
    for (const auto& [key, value] : rows_) all.push_back({key, value});
    return all;
  }
  size_t size() const { return rows_.size(); }
  // For damaging rows while no coordinator runs, and for what a start set aside, by key.
  std::map<std::string, std::string>& rows() { return rows_; }
  const std::map<std::string, std::string>& aside() const { return aside_; }

 private:
  std::map<std::string, std::string> rows_;
  std::map<std::string, std::string> aside_;
  int64_t sequence_ = 0;
};

// A spec that NormalizeSpec takes: 4 blocks of 32 on 2 shards, every 8th held out.
inline v1::JobSpec SmallSpec(const std::string& output_dir = "/tmp/out") {
  v1::JobSpec spec;
  spec.mutable_teacher()->set_path("/tmp/teacher");
  spec.mutable_prompts()->set_digest(kPrompts);
  spec.mutable_simulate()->set_triples(128);
  spec.mutable_simulate()->set_block_size(32);
  spec.mutable_simulate()->set_task_size(16);
  spec.mutable_simulate()->set_holdout_every(8);
  spec.mutable_simulate()->set_min_triples(80);
  spec.mutable_train()->set_steps(100);
  spec.mutable_train()->set_global_batch(8);
  spec.mutable_train()->set_checkpoint_every(50);
  spec.mutable_train()->set_min_ranks(2);
  spec.mutable_train()->set_max_ranks(2);
  spec.mutable_evaluate()->set_pictures(8);
  spec.mutable_evaluate()->set_evaluator_path("/tmp/evaluator");
  spec.set_output_dir(output_dir);
  return spec;
}

class Harness {
 public:
  static constexpr absl::Duration kLease = absl::Seconds(10);

  explicit Harness(int32_t shards = 2) : shards_(shards) {
    Start();
    coordinator_->Decide([](ClusterState& state, Moment) {
      rows::v1::PromptListRow row;
      row.set_prompt_count(100);
      state.AddPromptList(kPrompts, row);
      return true;
    });
    for (int32_t shard = 0; shard < shards_; ++shard) BeatShard(shard);
  }

  // Ends this start and begins the next from the rows alone.
  void Restart() {
    coordinator_.reset();
    Start();
  }
  // Passes time as a live process sees it, with ticks, while the shards keep beating.
  void Advance(absl::Duration by) {
    constexpr absl::Duration kStep = absl::Milliseconds(500);
    for (absl::Duration passed; passed < by; passed += kStep) {
      clock_.AdvanceTime(std::min(kStep, by - passed));
      for (const int32_t shard : beating_) BeatShard(shard);
      coordinator_->Tick();
    }
  }

  template <typename Decision>
  auto Decide(Decision&& decision) {
    return coordinator_->Decide(std::forward<Decision>(decision)).result;
  }
  // Looks at the state.
  template <typename Visit>
  auto Inspect(Visit&& visit) {
    return Decide([&](ClusterState& state, Moment) { return visit(state); });
  }

  absl::StatusOr<v1::Job> Create(v1::JobSpec spec, const std::string& request_id = "") {
    JobProposal proposal;
    const auto violations = spec::NormalizeSpec(&spec);
    if (!violations.empty()) return common::BadRequest(violations);
    proposal.spec = spec;
    proposal.teacher = {kTeacher, 4, 8, 8};
    proposal.request_id = request_id;
    return Decide([&](ClusterState& s, Moment now) { return s.CreateJob(proposal, now); });
  }
  v1::Job Get(const std::string& name) {
    auto job = Decide([&](ClusterState& s, Moment now) { return s.GetJob(name, now); });
    EXPECT_TRUE(job.ok()) << job.status();
    return job.ok() ? *job : v1::Job();
  }
  absl::StatusOr<v1::Job> SetDesired(const std::string& name, v1::Job::DesiredState desired) {
    v1::SetDesiredStateRequest request;
    request.set_name(name);
    request.set_desired_state(desired);
    return Decide([&](ClusterState& s, Moment now) { return s.SetDesiredState(request, now); });
  }

  static v1::WorkerInfo Worker(const std::string& id) {
    v1::WorkerInfo worker;
    worker.set_id(id);
    worker.set_node(absl::StrCat("node-", id));
    // As their names say.
    worker.set_device(absl::StartsWith(id, "gpu") ? "cuda:0" : "cpu");
    return worker;
  }
  absl::StatusOr<v1::LeaseTaskResponse> Lease(const std::string& worker,
                                              std::vector<v1::TaskKind> kinds = {
                                                  v1::TASK_KIND_SIMULATE}) {
    v1::LeaseTaskRequest request;
    *request.mutable_worker() = Worker(worker);
    for (const auto kind : kinds) request.add_kinds(kind);
    return Decide([&](ClusterState& s, Moment now) { return s.LeaseTask(request, now); });
  }
  // The task; an empty one when there is none.
  v1::Task LeaseOne(const std::string& worker,
                    std::vector<v1::TaskKind> kinds = {v1::TASK_KIND_SIMULATE}) {
    const auto response = Lease(worker, std::move(kinds));
    EXPECT_TRUE(response.ok()) << response.status();
    return response.ok() ? response->task() : v1::Task();
  }
  bool Beat(const v1::Task& task, int64_t progress) {
    v1::HeartbeatTaskRequest request;
    request.set_task(task.name());
    request.set_lease_id(task.lease_id());
    request.set_progress(progress);
    request.set_done(progress);
    request.set_total(16);
    request.set_phase("simulate");
    const auto response =
        Decide([&](ClusterState& s, Moment now) { return s.HeartbeatTask(request, now); });
    EXPECT_TRUE(response.ok()) << response.status();
    return !response->revoked();
  }
  // Any digest that sums up over ranges serves.
  static uint64_t Digest(int64_t begin, int64_t end) {
    uint64_t sum = 0;
    for (int64_t i = begin; i < end; ++i) sum += static_cast<uint64_t>(i) * 0x9E3779B97F4A7C15u + 1;
    return sum;
  }
  absl::Status Complete(const v1::Task& task, const std::string& worker) {
    v1::CompleteTaskRequest request;
    request.set_task(task.name());
    request.set_lease_id(task.lease_id());
    *request.mutable_worker() = Worker(worker);
    if (task.has_simulate()) {
      auto& sealed = *request.mutable_simulate()->mutable_sealed();
      *sealed.mutable_range() = task.simulate().range();
      sealed.set_digest(Digest(sealed.range().begin(), sealed.range().end()));
    } else if (task.has_evaluate()) {
      request.mutable_evaluate()->set_checkpoint_step(task.evaluate().checkpoint_step());
    } else {
      request.mutable_export_()->set_checkpoint_step(task.export_().checkpoint_step());
      request.mutable_export_()->set_path(task.export_().export_path());
    }
    return Decide([&](ClusterState& s, Moment now) { return s.CompleteTask(request, now); })
        .status();
  }
  void Fail(const v1::Task& task, const std::string& worker, v1::FailTaskRequest::Reason reason,
            const std::string& message = "it broke") {
    v1::FailTaskRequest request;
    request.set_task(task.name());
    request.set_lease_id(task.lease_id());
    *request.mutable_worker() = Worker(worker);
    request.set_reason(reason);
    request.set_message(message);
    const auto failed =
        Decide([&](ClusterState& s, Moment now) { return s.FailTask(request, now); });
    EXPECT_TRUE(failed.ok()) << failed.status();
  }
  // Leases and completes until nothing is left; returns how many tasks there were.
  int SimulateAll(const std::string& worker = "w") {
    for (int tasks = 0;; ++tasks) {
      const v1::Task task = LeaseOne(worker);
      if (!task.has_simulate()) return tasks;
      EXPECT_TRUE(Complete(task, worker).ok());
    }
  }

  // A shard's heartbeat; the summaries default to what the coordinator knows.
  absl::StatusOr<v1::ShardHeartbeatResponse> BeatShard(int32_t shard,
                                                       std::vector<v1::DatasetSummary> summaries,
                                                       const std::string& uuid = "") {
    v1::ShardHeartbeatRequest request;
    request.mutable_shard()->set_shard(shard);
    request.mutable_shard()->set_address(absl::StrCat("127.0.0.1:", 7000 + shard));
    request.mutable_shard()->set_store_uuid(uuid.empty() ? absl::StrCat("uuid-", shard) : uuid);
    for (auto& summary : summaries) *request.add_datasets() = summary;
    return Decide([&](ClusterState& s, Moment now) { return s.ShardHeartbeat(request, now); });
  }
  void BeatShard(int32_t shard) {
    const auto response = BeatShard(shard, KnownSummaries(shard));
    EXPECT_TRUE(response.ok()) << response.status();
    if (std::find(beating_.begin(), beating_.end(), shard) == beating_.end()) {
      beating_.push_back(shard);
    }
  }
  void StopShard(int32_t shard) { std::erase(beating_, shard); }
  std::vector<v1::DatasetSummary> KnownSummaries(int32_t shard) {
    return Inspect([&](ClusterState& state) {
      std::vector<v1::DatasetSummary> summaries;
      for (const auto& [id, row] : state.datasets().all()) {
        const auto seals = state.datasets().Find(id)->ShardRow(shard);
        v1::DatasetSummary& summary = summaries.emplace_back();
        summary.set_dataset(DatasetName(id));
        for (const auto& range : seals.ranges()) {
          summary.set_sealed_count(summary.sealed_count() + range.end() - range.begin());
        }
        summary.set_digest(seals.digest());
      }
      return summaries;
    });
  }

  absl::Status Join(const std::string& agent, int32_t slots) {
    v1::JoinGangRequest request;
    request.set_agent(agent);
    request.set_node(absl::StrCat("node-", agent));
    request.set_slots(slots);
    return Decide([&](ClusterState& s, Moment now) { return s.JoinGang(request, now); }).status();
  }
  using GangRequest = v1::GangHeartbeatRequest;
  absl::StatusOr<v1::GangHeartbeatResponse> BeatGang(const GangRequest& request) {
    return Decide([&](ClusterState& s, Moment now) { return s.GangHeartbeat(request, now); });
  }
  static GangRequest Report(const std::string& agent, GangRequest::AgentState state,
                            const v1::GangAssignment& of = {}, int64_t step = 0) {
    GangRequest request;
    request.set_agent(agent);
    request.set_state(state);
    request.set_job(of.job());
    request.set_generation(of.generation());
    if (state == GangRequest::AGENT_STATE_RUNNING) {
      if (of.first_rank() == 0) request.set_rendezvous("127.0.0.1:9");
      for (int32_t r = 0; r < of.rank_count(); ++r) {
        auto& rank = *request.add_ranks();
        rank.set_rank(of.first_rank() + r);
        rank.set_phase("step");
        rank.set_step(step);
        (*rank.mutable_metrics())["loss"] = 0.5;
      }
    }
    return request;
  }
  absl::StatusOr<v1::CommitCheckpointResponse> Commit(const std::string& job, int64_t generation,
                                                      int64_t step,
                                                      const std::string& nonce = "n") {
    v1::CommitCheckpointRequest request;
    request.set_job(job);
    request.set_generation(generation);
    request.set_step(step);
    request.set_path(
        absl::StrCat(Get(job).spec().output_dir(), "/checkpoints/step-", step, "-", nonce));
    request.set_manifest_digest(absl::StrFormat("%032x", step));
    return Decide([&](ClusterState& s, Moment now) { return s.CommitCheckpoint(request, now); });
  }

  common::FakeClock& clock() { return clock_; }
  MapRows& rows() { return rows_; }
  Coordinator& coordinator() { return *coordinator_; }
  uint64_t incarnation() const { return incarnation_; }

 private:
  void Start() {
    ClusterOptions options;
    options.shard_count = shards_;
    options.lease_duration = kLease;
    options.gang.settle = absl::Seconds(2);
    options.gang.agent_timeout = absl::Seconds(8);
    options.incarnation = ++incarnation_;
    options.new_job_id = [this] { return absl::StrCat("job", next_job_++); };
    coordinator_ = Coordinator::Create(options, rows_.Scan(), &rows_, &clock_);
  }

  const int32_t shards_;
  common::FakeClock clock_;
  MapRows rows_;
  uint64_t incarnation_ = 0;
  int next_job_ = 1;
  std::vector<int32_t> beating_;
  std::unique_ptr<Coordinator> coordinator_;
};

}  // namespace d2g::coordinator

// What the coordinator's decisions cost, without disk and network: with few and many workers that
// each hold a lease, and beside few and many jobs that have ended. Arguments: workers, ended jobs.
// None of the figures should grow with either by more than a logarithm.
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "benchmark/benchmark.h"
#include "coordinator/decider/coordinator.h"
#include "coordinator/spec/job_spec.h"
#include "services/common/clock.h"
#include "services/common/log.h"
#include "services/spec/normal_spec.h"

namespace d2g::coordinator {
namespace {

constexpr char kPrompts[] = "xxh3-128:00112233445566778899aabbccddeeff";
constexpr int kTaskSize = 16;
constexpr int kShards = 2;

void Check(bool as_expected) {
  if (!as_expected) std::abort();
}
void Check(const absl::Status& status) { Check(status.ok()); }

class NullRows : public RowSink {
 public:
  int64_t Enqueue(RowChanges changes) override {
    benchmark::DoNotOptimize(changes);
    return ++sequence_;
  }

 private:
  int64_t sequence_ = 0;
};

v1::JobSpec Spec(const std::string& output_dir, int64_t triples) {
  v1::JobSpec spec;
  spec.mutable_teacher()->set_path("/teacher");
  spec.mutable_prompts()->set_digest(kPrompts);
  spec.mutable_simulate()->set_triples(triples);
  spec.mutable_simulate()->set_block_size(32);
  spec.mutable_simulate()->set_task_size(kTaskSize);
  spec.mutable_simulate()->set_holdout_every(8);
  spec.mutable_train()->set_steps(100);
  spec.mutable_train()->set_global_batch(8);
  spec.mutable_train()->set_min_ranks(2);
  spec.mutable_evaluate()->set_pictures(8);
  spec.mutable_evaluate()->set_evaluator_path("/evaluator");
  spec.set_output_dir(output_dir);
  return spec;
}

// One job at work, every second task sealed and the others leased, one by each worker; and jobs of
// the same dataset that were cancelled.
class Cluster {
 private:
  template <typename Decision>
  auto Decide(Decision&& decision) {
    return coordinator_->Decide(std::forward<Decision>(decision)).result;
  }

 public:
  Cluster(int workers, int ended) {
    common::LogOptions log;
    log.level = "error";
    Check(common::InitLog(log));
    ClusterOptions options;
    options.shard_count = kShards;
    options.lease_duration = absl::Hours(1);
    options.new_job_id = [this] { return absl::StrCat("job", ++jobs_); };
    coordinator_ = Coordinator::Create(options, {}, &rows_, &clock_);
    Decide([](ClusterState& state, Moment) {
      rows::v1::PromptListRow row;
      row.set_prompt_count(100);
      state.AddPromptList(kPrompts, row);
      return true;
    });
    for (int shard = 0; shard < kShards; ++shard) BeatShard(shard);
    const int64_t triples = int64_t{2} * (workers + 1) * kTaskSize;
    for (int i = 0; i < ended; ++i) {
      v1::SetDesiredStateRequest cancel;
      cancel.set_name(Create(absl::StrCat("/ended/", i), triples));
      cancel.set_desired_state(v1::Job::DESIRED_STATE_CANCELLED);
      Check(Decide([&](ClusterState& s, Moment now) {
              return s.SetDesiredState(cancel, now);
            }).status());
    }
    job_ = Create("/live", triples);
    for (int i = 0; i < workers; ++i) {
      Complete(LeaseOne(i), i);
      held_.push_back(LeaseOne(i));
    }
    // What is left, so that whoever asks finds nothing.
    for (int i = 0; i < 2; ++i) held_.push_back(LeaseOne(workers + i));
  }

  // Every decision is a bit later than the one before, as in a live process.
  void Pass() { clock_.AdvanceTime(absl::Microseconds(10)); }

  v1::LeaseTaskResponse Lease(int worker) {
    v1::LeaseTaskRequest request;
    *request.mutable_worker() = Worker(worker);
    for (const auto kind : {v1::TASK_KIND_SIMULATE, v1::TASK_KIND_EVALUATE, v1::TASK_KIND_EXPORT}) {
      request.add_kinds(kind);
    }
    auto response = Decide([&](ClusterState& s, Moment now) { return s.LeaseTask(request, now); });
    Check(response.status());
    return *std::move(response);
  }
  void Heartbeat(const v1::Task& task, int64_t progress) {
    v1::HeartbeatTaskRequest request;
    request.set_task(task.name());
    request.set_lease_id(task.lease_id());
    request.set_progress(progress);
    request.set_done(progress % kTaskSize);
    request.set_total(kTaskSize);
    const auto response =
        Decide([&](ClusterState& s, Moment now) { return s.HeartbeatTask(request, now); });
    Check(response.ok() && !response->revoked());
  }
  void Tick() { coordinator_->Tick(); }
  void View() {
    const auto view = Decide([&](ClusterState& s, Moment now) { return s.GetJob(job_, now); });
    Check(view.status());
    benchmark::DoNotOptimize(view);
  }
  const std::vector<v1::Task>& held() const { return held_; }

 private:
  static v1::WorkerInfo Worker(int number) {
    v1::WorkerInfo worker;
    worker.set_id(absl::StrCat("worker-", number));
    worker.set_node(absl::StrCat("node-", number / 8));
    worker.set_device(number % 2 == 0 ? "cuda:0" : "cpu");
    return worker;
  }
  std::string Create(const std::string& output_dir, int64_t triples) {
    JobProposal proposal;
    proposal.spec = Spec(output_dir, triples);
    Check(spec::NormalizeSpec(&proposal.spec).empty());
    proposal.teacher = {"xxh3-128:ffeeddccbbaa99887766554433221100", 4, 8, 8};
    const auto job =
        Decide([&](ClusterState& s, Moment now) { return s.CreateJob(proposal, now); });
    Check(job.status());
    return job->name();
  }
  v1::Task LeaseOne(int worker) {
    const v1::LeaseTaskResponse response = Lease(worker);
    Check(response.has_task());
    return response.task();
  }
  void Complete(const v1::Task& task, int worker) {
    v1::CompleteTaskRequest request;
    request.set_task(task.name());
    request.set_lease_id(task.lease_id());
    *request.mutable_worker() = Worker(worker);
    *request.mutable_simulate()->mutable_sealed()->mutable_range() = task.simulate().range();
    Check(
        Decide([&](ClusterState& s, Moment now) { return s.CompleteTask(request, now); }).status());
  }
  void BeatShard(int shard) {
    v1::ShardHeartbeatRequest request;
    request.mutable_shard()->set_shard(shard);
    request.mutable_shard()->set_address(absl::StrCat("127.0.0.1:", 7000 + shard));
    request.mutable_shard()->set_store_uuid(absl::StrCat("uuid-", shard));
    Check(Decide([&](ClusterState& s, Moment now) {
            return s.ShardHeartbeat(request, now);
          }).status());
  }

  common::FakeClock clock_;
  NullRows rows_;
  int jobs_ = 0;
  std::unique_ptr<Coordinator> coordinator_;
  std::string job_;
  std::vector<v1::Task> held_;
};

// The cluster of a benchmark's size, made once for all of them: that takes seconds.
Cluster& ClusterOf(const benchmark::State& state) {
  static auto* const clusters = new std::map<std::pair<int64_t, int64_t>, std::unique_ptr<Cluster>>;
  std::unique_ptr<Cluster>& cluster = (*clusters)[{state.range(0), state.range(1)}];
  if (cluster == nullptr) {
    cluster = std::make_unique<Cluster>(static_cast<int>(state.range(0)),
                                        static_cast<int>(state.range(1)));
  }
  return *cluster;
}

void BM_Heartbeat(benchmark::State& state) {
  Cluster& cluster = ClusterOf(state);
  static int64_t beats = 0;  // progress has to grow from one run to the next
  for (auto _ : state) {
    cluster.Pass();
    ++beats;
    cluster.Heartbeat(cluster.held()[static_cast<size_t>(beats) % cluster.held().size()], beats);
  }
}

// A worker asks for work and there is none.
void BM_Lease(benchmark::State& state) {
  Cluster& cluster = ClusterOf(state);
  const int idle = static_cast<int>(state.range(0)) + 2;
  for (auto _ : state) {
    cluster.Pass();
    Check(!cluster.Lease(idle).has_task());
  }
}

// With the figures for metrics, as in the program.
void BM_Tick(benchmark::State& state) {
  Cluster& cluster = ClusterOf(state);
  for (auto _ : state) {
    cluster.Pass();
    cluster.Tick();
  }
}

void BM_JobView(benchmark::State& state) {
  Cluster& cluster = ClusterOf(state);
  for (auto _ : state) {
    cluster.Pass();
    cluster.View();
  }
}

const std::vector<std::vector<int64_t>> kSizes = {{100, 10'000}, {10, 10'000}};
BENCHMARK(BM_Heartbeat)->ArgsProduct(kSizes)->Unit(benchmark::kMicrosecond);
BENCHMARK(BM_Lease)->ArgsProduct(kSizes)->Unit(benchmark::kMicrosecond);
BENCHMARK(BM_Tick)->ArgsProduct(kSizes)->Unit(benchmark::kMicrosecond);
BENCHMARK(BM_JobView)->ArgsProduct(kSizes)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace d2g::coordinator

BENCHMARK_MAIN();

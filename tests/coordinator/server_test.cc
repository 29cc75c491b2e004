// The real server in this process: gRPC on a free port, RocksDB in a temporary folder.
#include "coordinator/server.h"

#include <atomic>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "coordinator/client/client.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/common/channel.h"
#include "services/common/grpc_status.h"
#include "tests/coordinator/fake_shard.h"
#include "tests/coordinator/input_folders.h"
#include "tests/testing/http_get.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/wait.h"

namespace d2g::coordinator {
namespace {

using ::d2g::testing::HttpGet;
using ::d2g::testing::IsOk;
using ::d2g::testing::StatusIs;
using ::d2g::testing::TempDir;
using ::d2g::testing::WaitFor;
using ::testing::HasSubstr;
using v1::Job;

absl::Time Soon() { return absl::Now() + absl::Seconds(20); }

class ServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    options_.data_dir = dir_.File("data");
    options_.shards = 2;
    options_.gang.settle = absl::Milliseconds(100);
    Start();
    client_ = std::make_unique<CoordinatorClient>(server_->address());
  }
  void Start() {
    auto server = CoordinatorServer::Start(options_);
    ASSERT_THAT(server, IsOk());
    server_ = *std::move(server);
    options_.listen = server_->address();  // a restart serves at the same place
  }
  void Restart() {
    server_.reset();
    Start();
  }
  // A spec whose files are there and whose prompts are uploaded.
  v1::JobSpec Spec() {
    v1::JobSpec spec = SmallSpec();
    inputs_.Fill(&spec);
    const auto list = client_->UploadPromptList("a dog\na cat\n", Soon());
    EXPECT_THAT(list, IsOk());
    if (list.ok()) spec.mutable_prompts()->set_digest(list->digest());
    return spec;
  }
  absl::StatusOr<Job> Create(const v1::JobSpec& spec, const std::string& request_id = "") {
    v1::CreateJobRequest request;
    *request.mutable_spec() = spec;
    request.set_request_id(request_id);
    return client_->CreateJob(request, Soon());
  }
  Job Get(const std::string& name) {
    v1::GetJobRequest request;
    request.set_name(name);
    const auto job = client_->GetJob(request, Soon());
    EXPECT_THAT(job, IsOk());
    return job.ok() ? *job : Job();
  }
  absl::StatusOr<v1::LeaseTaskResponse> Lease(const std::string& worker, v1::TaskKind kind) {
    v1::LeaseTaskRequest request;
    *request.mutable_worker() = Harness::Worker(worker);
    request.add_kinds(kind);
    return client_->LeaseTask(request, Soon());
  }

  TempDir dir_;
  InputFolders inputs_;
  CoordinatorServerOptions options_;
  std::unique_ptr<CoordinatorServer> server_;
  std::unique_ptr<CoordinatorClient> client_;
};

TEST_F(ServerTest, CreatesJobsOnceAcrossARestart) {
  const v1::JobSpec spec = Spec();
  ASSERT_OK_AND_ASSIGN(const Job job, Create(spec, "my-request"));
  EXPECT_THAT(job.spec().teacher().digest(), HasSubstr("xxh3-128:"));
  Restart();
  std::filesystem::remove_all(inputs_.teacher());
  ASSERT_OK_AND_ASSIGN(const Job again, Create(spec, "my-request"));
  EXPECT_EQ(again.name(), job.name()) << "a repeat needs no files";
  ASSERT_OK_AND_ASSIGN(const auto listed, client_->ListJobs({}, Soon()));
  EXPECT_EQ(listed.jobs_size(), 1);
}

TEST_F(ServerTest, BadSpecsNameEveryFieldAndLeaveNothing) {
  v1::JobSpec spec = Spec();
  spec.mutable_train()->set_global_batch(-3);
  spec.mutable_simulate()->set_block_size(1);
  const auto refused = Create(spec);
  ASSERT_THAT(refused, StatusIs(absl::StatusCode::kInvalidArgument));
  const auto violations = common::FieldViolations(refused.status());
  ASSERT_EQ(violations.size(), 2u);
  EXPECT_EQ(violations[0].field, "spec.simulate.block_size");
  EXPECT_EQ(violations[0].description, "1 is not from 16 to 65536");
  EXPECT_EQ(violations[1].field, "spec.train.global_batch");
  ASSERT_OK_AND_ASSIGN(const auto listed, client_->ListJobs({}, Soon()));
  EXPECT_EQ(listed.jobs_size(), 0);
  EXPECT_FALSE(std::filesystem::exists(inputs_.output()));
}

TEST_F(ServerTest, BadFilesAreNamed) {
  v1::JobSpec spec = Spec();
  const std::string weights = inputs_.teacher() + "/unet/diffusion_pytorch_model.safetensors";
  std::filesystem::resize_file(weights, 40);
  std::filesystem::remove(inputs_.evaluator() + "/config.json");
  WriteTestFile(inputs_.File("file"), "x");
  spec.set_output_dir(inputs_.File("file/below"));
  const auto refused = Create(spec);
  ASSERT_THAT(refused, StatusIs(absl::StatusCode::kInvalidArgument));
  std::map<std::string, std::string> fields;
  for (const auto& v : common::FieldViolations(refused.status())) {
    fields[v.field] = v.description;
  }
  EXPECT_THAT(fields["spec.teacher.path"], HasSubstr("diffusion_pytorch_model.safetensors"));
  EXPECT_THAT(fields["spec.evaluate.evaluator_path"], HasSubstr("config.json"));
  EXPECT_THAT(fields["spec.output_dir"], HasSubstr("file"));
}

TEST_F(ServerTest, WhatTheFilesCannotDoIsNamed) {
  v1::JobSpec spec = Spec();
  std::filesystem::remove(inputs_.evaluator() + "/reference.safetensors");
  spec.mutable_train()->set_t0(1000);
  const auto refused = Create(spec);
  ASSERT_THAT(refused, StatusIs(absl::StatusCode::kInvalidArgument));
  const auto violations = common::FieldViolations(refused.status());
  ASSERT_EQ(violations.size(), 2u);
  EXPECT_EQ(violations[0].field, "spec.train.t0");
  EXPECT_THAT(violations[0].description, HasSubstr("1000 is not from 0 to 999"));
  EXPECT_EQ(violations[1].field, "spec.evaluate.evaluator_path");
  EXPECT_THAT(violations[1].description, HasSubstr("reference.safetensors"));
}

TEST_F(ServerTest, ATeacherWithAnotherDigestIsRefused) {
  v1::JobSpec spec = Spec();
  spec.mutable_teacher()->set_digest(kTeacher);
  EXPECT_THAT(Create(spec), StatusIs(absl::StatusCode::kInvalidArgument,
                                     HasSubstr("spec.teacher.digest: " + std::string(kTeacher))));
}

TEST_F(ServerTest, IsNotReadyWhileItStops) {
  const auto stub = v1::JobService::NewStub(common::MakeChannel(server_->address()));
  grpc::ClientContext context;
  v1::PromptList list;
  const auto writer = stub->UploadPromptList(&context, &list);
  const std::string open = "d2g_rpc_open_streams{method=\"JobService/UploadPromptList\"} 1\n";
  ASSERT_TRUE(
      WaitFor([&] { return absl::StrContains(HttpGet(server_->admin_port(), "/metrics"), open); }));
  EXPECT_THAT(HttpGet(server_->admin_port(), "/readyz"), HasSubstr("200 OK"));
  // Waits for the upload.
  std::thread stopper([&] { server_->Stop(absl::Seconds(20)); });
  EXPECT_TRUE(WaitFor(
      [&] { return absl::StrContains(HttpGet(server_->admin_port(), "/readyz"), "is stopping"); }));
  context.TryCancel();
  writer->Finish();
  stopper.join();
}

TEST_F(ServerTest, UnknownNamesAndMalformedOnesAreNamed) {
  v1::GetJobRequest request;
  request.set_name("jobs/nothing");
  EXPECT_THAT(client_->GetJob(request, Soon()),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("jobs/nothing")));
  request.set_name("nothing");
  EXPECT_THAT(client_->GetJob(request, Soon()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("\"nothing\"")));
}

TEST_F(ServerTest, WatchingSeesChangesAndEndsWithTheJob) {
  ASSERT_OK_AND_ASSIGN(const Job job, Create(Spec()));
  std::vector<Job::State> states;
  std::atomic<int> last{0};
  absl::Status ended;
  std::thread watcher([&] {
    ended = client_->WatchJob(job.name(), absl::Seconds(20), [&](const Job& now) {
      if (states.empty() || states.back() != now.state()) states.push_back(now.state());
      last = now.state();
      return true;
    });
  });
  EXPECT_TRUE(WaitFor([&] { return last == Job::STATE_RUNNING; }));
  Restart();  // a watch goes on after it
  v1::SetDesiredStateRequest request;
  request.set_name(job.name());
  request.set_desired_state(Job::DESIRED_STATE_PAUSED);
  ASSERT_THAT(client_->SetDesiredState(request, Soon()), IsOk());
  EXPECT_TRUE(WaitFor([&] { return last == Job::STATE_PAUSED; }));
  request.set_desired_state(Job::DESIRED_STATE_CANCELLED);
  ASSERT_THAT(client_->SetDesiredState(request, Soon()), IsOk());
  watcher.join();
  EXPECT_THAT(ended, IsOk());
  EXPECT_THAT(states,
              ::testing::ElementsAre(Job::STATE_RUNNING, Job::STATE_PAUSED, Job::STATE_CANCELLED));
}

TEST_F(ServerTest, WatchingIsAtMostFiveTimesASecond) {
  ASSERT_OK_AND_ASSIGN(const Job job, Create(Spec()));
  FakeShard shard0(server_->address(), 0);
  FakeShard shard1(server_->address(), 1);
  v1::Task task;
  ASSERT_TRUE(WaitFor([&] {
    const auto leased = Lease("w", v1::TASK_KIND_SIMULATE);
    if (leased.ok()) task = leased->task();
    return task.has_simulate();
  }));
  std::atomic<int> seen{0};
  std::atomic<bool> stop{false};
  std::thread watcher([&] {
    EXPECT_THAT(client_->WatchJob(job.name(), absl::Seconds(20),
                                  [&](const Job&) {
                                    ++seen;
                                    return !stop;
                                  }),
                StatusIs(absl::StatusCode::kCancelled));
  });
  ASSERT_TRUE(WaitFor([&] { return seen > 0; }));
  const int before = seen;
  const absl::Time start = absl::Now();
  v1::HeartbeatTaskRequest beat;
  beat.set_task(task.name());
  beat.set_lease_id(task.lease_id());
  int beats = 0;
  while (absl::Now() - start < absl::Seconds(2)) {
    beat.set_progress(++beats);
    beat.set_done(beats % 16);
    ASSERT_THAT(client_->HeartbeatTask(beat, Soon()), IsOk());
  }
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  EXPECT_GT(beats, 50);
  EXPECT_LE(seen - before, static_cast<int>(seconds * 5) + 1);
  EXPECT_GE(seen - before, 3);
  stop = true;
  beat.set_progress(++beats);
  beat.set_done(5);
  ASSERT_THAT(client_->HeartbeatTask(beat, Soon()), IsOk());
  v1::SetDesiredStateRequest pause;
  pause.set_name(job.name());
  pause.set_desired_state(Job::DESIRED_STATE_PAUSED);
  ASSERT_THAT(client_->SetDesiredState(pause, Soon()), IsOk());
  watcher.join();
}

TEST_F(ServerTest, RepliesOfAnOlderIncarnationAreRefused) {
  ASSERT_THAT(client_->ListJobs({}, Soon()), IsOk());
  EXPECT_EQ(client_->incarnation(), 1u);
  Restart();
  ASSERT_THAT(client_->ListJobs({}, Soon()), IsOk());
  EXPECT_EQ(client_->incarnation(), 2u);
  options_.data_dir = dir_.File("other");  // an old copy, or another cluster
  Restart();
  EXPECT_THAT(client_->ListJobs({}, absl::Now() + absl::Milliseconds(300)),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("incarnation 1, lower than 2")));
  CoordinatorClient peer(client_.get(), nullptr);
  EXPECT_EQ(peer.incarnation(), 2u);
  EXPECT_THAT(peer.ListJobs({}, absl::Now() + absl::Milliseconds(300)),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("incarnation 1, lower than 2")));
}

TEST_F(ServerTest, AWholeJobWithRestartsAndMovingMetrics) {
  const std::string before = HttpGet(server_->admin_port(), "/metrics");
  FakeShard shard0(server_->address(), 0);
  FakeShard shard1(server_->address(), 1);
  FakeShard* const shards[] = {&shard0, &shard1};
  ASSERT_OK_AND_ASSIGN(const Job job, Create(Spec(), "flow"));
  // Several workers at once; no two hold the same range.
  std::mutex mutex;
  std::set<int64_t> seen;
  std::vector<std::thread> workers;
  for (int w = 0; w < 4; ++w) {
    workers.emplace_back([&, w] {
      const std::string id = absl::StrCat("w", w);
      while (Get(job.name()).stages(0).done() < 128) {
        const auto leased = Lease(id, v1::TASK_KIND_SIMULATE);
        ASSERT_THAT(leased, IsOk());
        if (!leased->has_task()) {
          absl::SleepFor(absl::Milliseconds(20));
          continue;
        }
        const auto& work = leased->task().simulate();
        {
          std::lock_guard lock(mutex);
          for (int64_t n = work.range().begin(); n < work.range().end(); ++n) {
            EXPECT_TRUE(seen.insert(n).second) << n << " was leased twice";
          }
        }
        v1::CompleteTaskRequest complete;
        complete.set_task(leased->task().name());
        complete.set_lease_id(leased->task().lease_id());
        *complete.mutable_worker() = Harness::Worker(id);
        *complete.mutable_simulate() =
            shards[work.shard().shard()]->Seal(work.dataset(), work.range());
        ASSERT_THAT(client_->CompleteTask(complete, Soon()), IsOk());
      }
    });
  }
  for (std::thread& worker : workers) worker.join();
  EXPECT_EQ(seen.size(), 128u);

  // Train, with a restart in the middle.
  v1::JoinGangRequest join;
  join.set_agent("agent");
  join.set_node("node");
  join.set_slots(2);
  ASSERT_THAT(client_->JoinGang(join, Soon()), IsOk());
  v1::GangAssignment gang;
  ASSERT_TRUE(WaitFor([&] {
    const auto told = client_->GangHeartbeat(
        Harness::Report("agent", v1::GangHeartbeatRequest::AGENT_STATE_IDLE), Soon());
    EXPECT_THAT(told, IsOk());
    gang = told->assignment();
    return gang.generation() == 1;
  }));
  EXPECT_EQ(gang.work().shards_size(), 2);
  const auto running =
      Harness::Report("agent", v1::GangHeartbeatRequest::AGENT_STATE_RUNNING, gang, 60);
  ASSERT_THAT(client_->GangHeartbeat(running, Soon()), IsOk());
  ASSERT_TRUE(WaitFor([&] {
    return absl::StrContains(HttpGet(server_->admin_port(), "/metrics"),
                             "d2g_coordinator_training_step 60");
  }));
  const std::string after = HttpGet(server_->admin_port(), "/metrics");
  Restart();
  ASSERT_OK_AND_ASSIGN(const auto kept, client_->GangHeartbeat(running, Soon()));
  EXPECT_EQ(kept.action(), v1::GangHeartbeatResponse::ACTION_RUN);
  EXPECT_EQ(kept.assignment().generation(), 1);
  v1::CommitCheckpointRequest commit;
  commit.set_job(job.name());
  commit.set_generation(1);
  commit.set_step(100);
  commit.set_path(inputs_.output() + "/checkpoints/step-100-g1-x");
  commit.set_manifest_digest(std::string(32, 'a'));
  ASSERT_THAT(client_->CommitCheckpoint(commit, Soon()), IsOk());
  Restart();
  ASSERT_THAT(client_->CommitCheckpoint(commit, Soon()), IsOk()) << "the answer got lost";

  for (int i = 0; i < 2; ++i) {
    const auto kind = i == 0 ? v1::TASK_KIND_EXPORT : v1::TASK_KIND_EVALUATE;
    ASSERT_OK_AND_ASSIGN(const auto leased, Lease("final", kind));
    ASSERT_TRUE(leased.has_task()) << i;
    v1::CompleteTaskRequest complete;
    complete.set_task(leased.task().name());
    complete.set_lease_id(leased.task().lease_id());
    *complete.mutable_worker() = Harness::Worker("final");
    if (i == 0) {
      complete.mutable_export_()->set_checkpoint_step(100);
      complete.mutable_export_()->set_path(leased.task().export_().export_path());
    } else {
      complete.mutable_evaluate()->set_checkpoint_step(100);
    }
    ASSERT_THAT(client_->CompleteTask(complete, Soon()), IsOk());
  }
  EXPECT_EQ(Get(job.name()).state(), Job::STATE_SUCCEEDED);
  Restart();
  EXPECT_EQ(Get(job.name()).state(), Job::STATE_SUCCEEDED);
  EXPECT_EQ(Get(job.name()).stages(0).done(), 128);
  ASSERT_THAT(client_->WatchJob(job.name(), absl::Seconds(5), [](const Job&) { return true; }),
              IsOk());

  // Families whose values moved between the two scrapes.
  const auto parse = [](const std::string& text) {
    std::map<std::string, std::string> values;
    for (const absl::string_view line : absl::StrSplit(text, '\n')) {
      const size_t space = line.rfind(' ');
      if (absl::StartsWith(line, "d2g_") && space != absl::string_view::npos) {
        values[std::string(line.substr(0, space))] = std::string(line.substr(space + 1));
      }
    }
    return values;
  };
  const auto old_values = parse(before);
  std::set<std::string> moved;
  for (const auto& [series, value] : parse(after)) {
    const auto old = old_values.find(series);
    if (old == old_values.end() || old->second != value) {
      moved.insert(series.substr(0, series.find('{')));
    }
  }
  for (const char* family :
       {"d2g_coordinator_jobs", "d2g_coordinator_tasks_leased_total",
        "d2g_coordinator_tasks_completed_total", "d2g_coordinator_triples_sealed_total",
        "d2g_coordinator_sealed_triples", "d2g_coordinator_generations_formed_total",
        "d2g_coordinator_shards", "d2g_coordinator_workers", "d2g_coordinator_agents",
        "d2g_coordinator_training_step", "d2g_coordinator_rows_written_total",
        "d2g_coordinator_commit_seconds_count", "d2g_rpc_handled_total"}) {
    EXPECT_TRUE(moved.contains(family)) << family << " did not move";
  }
}

TEST(ServerOptionsTest, RefusalsNameTheThingAndTouchNothing) {
  TempDir dir;
  CoordinatorServerOptions options;
  options.data_dir = dir.File("data");
  ASSERT_OK_AND_ASSIGN(auto server, CoordinatorServer::Start(options));

  CoordinatorServerOptions second = options;
  EXPECT_THAT(CoordinatorServer::Start(second),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("in use by another")));
  second.data_dir = dir.File("other");
  second.listen = server->address();
  EXPECT_THAT(CoordinatorServer::Start(second).status().ToString(), HasSubstr(server->address()));
  EXPECT_FALSE(std::filesystem::exists(second.data_dir));
  second.listen = "127.0.0.1:0";
  second.admin_address = absl::StrCat("127.0.0.1:", server->admin_port());
  EXPECT_THAT(CoordinatorServer::Start(second).status().ToString(),
              HasSubstr(second.admin_address));
  EXPECT_FALSE(std::filesystem::exists(second.data_dir));
  second.admin_address = "127.0.0.1:0";
  second.listen = "0.0.0.0:0";
  EXPECT_THAT(CoordinatorServer::Start(second).status().ToString(), HasSubstr("0.0.0.0"));
  second.listen = "127.0.0.1:0";
  second.shards = 0;
  EXPECT_THAT(CoordinatorServer::Start(second),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--shards: 0")));
  second.shards = 1;
  second.lease_duration = absl::Milliseconds(1);
  EXPECT_THAT(CoordinatorServer::Start(second),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--lease-duration: 1ms")));
  second.lease_duration = absl::Seconds(60);
  WriteTestFile(dir.File("file"), "x");
  second.data_dir = dir.File("file");
  EXPECT_THAT(CoordinatorServer::Start(second),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(second.data_dir)));

  server.reset();
  options.shards = 3;
  EXPECT_THAT(CoordinatorServer::Start(options),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("was made for 1 shards; it cannot be served with --shards 3")));
}

}  // namespace
}  // namespace d2g::coordinator

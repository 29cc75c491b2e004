#include "worker/lease/lease_loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>

#include "absl/strings/str_cat.h"
#include "tests/testing/fake_coordinator.h"
#include "tests/testing/wait.h"
#include "worker/common/device_lost.h"
#include "worker/lease/heartbeat.h"

namespace d2g::lease {
namespace {

using ::d2g::testing::FakeCoordinator;
using ::d2g::testing::WaitFor;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::SizeIs;

using coordinator::v1::CompleteTaskRequest;
using coordinator::v1::FailTaskRequest;
using coordinator::v1::Task;

// Runs what the test says.
class FunctionRunner final : public TaskRunner {
 public:
  using Function = std::function<absl::Status(const Task&, TaskContext*, CompleteTaskRequest*)>;
  explicit FunctionRunner(Function function) : function_(std::move(function)) {}
  coordinator::v1::TaskKind kind() const override { return coordinator::v1::TASK_KIND_SIMULATE; }
  absl::Status Run(const Task& task, TaskContext* context, CompleteTaskRequest* result) override {
    return function_(task, context, result);
  }

 private:
  const Function function_;
};

class LeaseLoopTest : public ::testing::Test {
 protected:
  LeaseLoopTest() : link_(coordinator_.address()), metrics_("test") {}

  void StartLoop(FunctionRunner::Function function) {
    LeaseLoopOptions options;
    options.worker.set_id("worker-1");
    options.rpc_timeout = absl::Seconds(2);
    std::vector<std::unique_ptr<TaskRunner>> runners;
    runners.push_back(std::make_unique<FunctionRunner>(std::move(function)));
    loop_ = std::make_unique<LeaseLoop>(options, &link_, std::move(runners), &metrics_);
    loop_->Start();
  }
  static Task MakeTask(int64_t number) {
    Task task;
    task.set_name(absl::StrCat("jobs/a/tasks/", number));
    task.set_lease_id(100 + number);
    task.mutable_heartbeat_interval()->set_nanos(20'000'000);
    task.mutable_lease_duration()->set_seconds(1);
    task.mutable_simulate()->mutable_range()->set_end(number);
    return task;
  }

  FakeCoordinator coordinator_;
  coordinator::CoordinatorClient link_;
  common::Metrics metrics_;
  std::unique_ptr<LeaseLoop> loop_;
};

TEST_F(LeaseLoopTest, RunsTasksAndReportsProgress) {
  coordinator_.tasks().AddTask(MakeTask(1));
  coordinator_.tasks().AddTask(MakeTask(2));
  std::atomic<bool> go_on = false;
  StartLoop([&](const Task& task, TaskContext* context, CompleteTaskRequest* result) {
    context->SetPhase("simulate");
    while (!go_on) {
      context->AddProgress();
      context->SetDone(3, 7);
      absl::SleepFor(absl::Milliseconds(1));
    }
    result->mutable_simulate()->set_dataset_sealed_count(task.simulate().range().end());
    return absl::OkStatus();
  });
  ASSERT_TRUE(WaitFor([&] { return coordinator_.tasks().heartbeats().size() >= 3; }));
  go_on = true;
  ASSERT_TRUE(WaitFor([&] { return coordinator_.tasks().completed().size() == 2; }));
  const auto heartbeats = coordinator_.tasks().heartbeats();
  EXPECT_EQ(heartbeats[1].task(), "jobs/a/tasks/1");
  EXPECT_EQ(heartbeats[1].lease_id(), 101);
  EXPECT_EQ(heartbeats[1].phase(), "simulate");
  EXPECT_EQ(heartbeats[1].done(), 3);
  EXPECT_EQ(heartbeats[1].total(), 7);
  EXPECT_GT(heartbeats[2].progress(), heartbeats[0].progress());
  const auto completed = coordinator_.tasks().completed();
  EXPECT_EQ(completed[1].task(), "jobs/a/tasks/2");
  EXPECT_EQ(completed[1].lease_id(), 102);
  EXPECT_EQ(completed[1].worker().id(), "worker-1");
  EXPECT_EQ(completed[1].simulate().dataset_sealed_count(), 2);
  EXPECT_EQ(completed[0].total(), 7);
  EXPECT_EQ(loop_->Stop(absl::Seconds(10)), LoopEnd::kDone);
  EXPECT_THAT(
      metrics_.Expose(),
      AllOf(HasSubstr("d2g_worker_tasks_total{kind=\"simulate\",result=\"completed\"} 2"),
            HasSubstr("d2g_worker_lease_requests_total{result=\"task\"} 2"),
            HasSubstr("d2g_worker_task_progress 0"), HasSubstr("d2g_worker_task_done_units 0"),
            HasSubstr("d2g_worker_task_units 0")));
}

TEST(TaskHeartbeatTest, EndsAtOnceThoughTheCoordinatorIsAway) {
  const std::string address = FakeCoordinator().address();
  coordinator::CoordinatorClient link(address);
  common::Metrics metrics("test");
  LeaseMetrics lease_metrics(&metrics);
  TaskContext context;
  Task task;
  task.mutable_heartbeat_interval()->set_nanos(1);
  context.AddProgress(7);
  auto heartbeat = std::make_unique<TaskHeartbeat>(task, /*rpc_timeout=*/absl::Seconds(60), &link,
                                                   &context, &lease_metrics);
  // Set just before the call.
  ASSERT_TRUE(WaitFor(
      [&] { return metrics.Expose().find("d2g_worker_task_progress 7") != std::string::npos; }));
  const absl::Time start = absl::Now();
  heartbeat.reset();
  EXPECT_LT(absl::Now() - start, absl::Seconds(20));
}

TEST(TaskHeartbeatTest, AnOlderCoordinatorThanTheProcessHasSeenRevokesNothing) {
  FakeCoordinator coordinator;
  coordinator::CoordinatorClient link(coordinator.address());
  coordinator.tasks().SetIncarnation(2);
  ASSERT_TRUE(link.LeaseTask({}, absl::Now() + absl::Seconds(20)).ok());
  coordinator.tasks().SetIncarnation(1);
  coordinator.tasks().Revoke();
  common::Metrics metrics("test");
  LeaseMetrics lease_metrics(&metrics);
  TaskContext context;
  Task task;
  task.mutable_heartbeat_interval()->set_nanos(1);
  const TaskHeartbeat heartbeat(task, /*rpc_timeout=*/absl::Milliseconds(1), &link, &context,
                                &lease_metrics);
  ASSERT_TRUE(WaitFor([&] {
    return metrics.Expose().find("d2g_worker_heartbeats_total{result=\"error\"} 0") ==
           std::string::npos;
  }));
  EXPECT_GT(coordinator.tasks().heartbeats().size(), 0u);
  EXPECT_FALSE(context.cancelled());
}

TEST_F(LeaseLoopTest, FailuresCarryReasonAndMessage) {
  coordinator_.tasks().AddTask(MakeTask(1));
  coordinator_.tasks().AddTask(MakeTask(2));
  coordinator_.tasks().AddTask(MakeTask(3));
  StartLoop([&](const Task& task, TaskContext*, CompleteTaskRequest*) -> absl::Status {
    if (task.lease_id() == 101)
      return absl::InvalidArgumentError("solver.kind: \xff not supported");
    if (task.lease_id() == 103) return absl::UnavailableError("the disk of the shard is full");
    return absl::InternalError("latent of triple 7 is not finite");
  });
  ASSERT_TRUE(WaitFor([&] { return coordinator_.tasks().failed().size() == 3; }));
  const auto failed = coordinator_.tasks().failed();
  EXPECT_EQ(failed[0].reason(), FailTaskRequest::REASON_BAD_INPUT);
  EXPECT_EQ(failed[0].message(), "solver.kind: ? not supported");
  EXPECT_EQ(failed[1].reason(), FailTaskRequest::REASON_ERROR);
  EXPECT_EQ(failed[1].message(), "latent of triple 7 is not finite");
  EXPECT_EQ(failed[2].reason(), FailTaskRequest::REASON_STORE_UNAVAILABLE);
}

TEST_F(LeaseLoopTest, AFailedTaskDoesNotDelayTheNextLease) {
  // Back-offs between them, had each failure one, would add up to more than three minutes.
  constexpr int kTasks = 40;
  for (int i = 0; i < kTasks; ++i) coordinator_.tasks().AddTask(MakeTask(i));
  StartLoop([&](const Task&, TaskContext*, CompleteTaskRequest*) -> absl::Status {
    return absl::InternalError("it broke");
  });
  EXPECT_TRUE(
      WaitFor([&] { return coordinator_.tasks().failed().size() == kTasks; }, absl::Seconds(60)));
}

TEST_F(LeaseLoopTest, ATaskOfAKindThatItDoesNotRunIsGivenBackAndWaitedAfter) {
  // Between them are three waits of at least half of 0.2 s x 1.7^k.
  constexpr int kTasks = 4;
  for (int i = 0; i < kTasks; ++i) {
    Task task = MakeTask(i);
    task.mutable_export_();
    coordinator_.tasks().AddTask(task);
  }
  const absl::Time start = absl::Now();
  StartLoop([&](const Task&, TaskContext*, CompleteTaskRequest*) { return absl::OkStatus(); });
  ASSERT_TRUE(
      WaitFor([&] { return coordinator_.tasks().failed().size() == kTasks; }, absl::Seconds(60)));
  EXPECT_GT(absl::Now() - start, absl::Milliseconds(500));
}

TEST_F(LeaseLoopTest, ALostDeviceEndsTheLoop) {
  coordinator_.tasks().AddTask(MakeTask(1));
  coordinator_.tasks().AddTask(MakeTask(2));
  StartLoop([&](const Task&, TaskContext*, CompleteTaskRequest*) -> absl::Status {
    return DeviceLostError("CUDA error: an illegal memory access was encountered");
  });
  ASSERT_TRUE(WaitFor([&] { return !loop_->device().ok(); }));
  EXPECT_THAT(loop_->device().message(), HasSubstr("illegal memory access"));
  // It does not wait for a task, a coordinator or a grace.
  EXPECT_EQ(loop_->Stop(absl::Seconds(20)), LoopEnd::kDone);
  ASSERT_THAT(coordinator_.tasks().failed(), SizeIs(1));
  EXPECT_EQ(coordinator_.tasks().failed()[0].reason(), FailTaskRequest::REASON_ERROR);
}

TEST_F(LeaseLoopTest, ARevokedTaskIsDropped) {
  coordinator_.tasks().AddTask(MakeTask(1));
  std::atomic<bool> cancelled = false;
  StartLoop([&](const Task&, TaskContext* context, CompleteTaskRequest*) {
    cancelled = context->WaitForCancel(absl::Seconds(20));
    return context->CheckCancelled();
  });
  ASSERT_TRUE(WaitFor([&] { return !coordinator_.tasks().heartbeats().empty(); }));
  coordinator_.tasks().Revoke();
  ASSERT_TRUE(WaitFor([&] { return cancelled.load(); }));
  // The loop asks for the next task and has reported nothing about this one.
  const int calls = coordinator_.tasks().lease_calls();
  ASSERT_TRUE(WaitFor([&] { return coordinator_.tasks().lease_calls() > calls; }));
  EXPECT_THAT(coordinator_.tasks().failed(), SizeIs(0));
  EXPECT_THAT(coordinator_.tasks().completed(), SizeIs(0));
}

TEST_F(LeaseLoopTest, WorksOnWhileTheCoordinatorIsAway) {
  coordinator_.tasks().AddTask(MakeTask(1));
  std::atomic<bool> running = false, go_on = false;
  StartLoop([&](const Task&, TaskContext* context, CompleteTaskRequest* result) {
    running = true;
    while (!go_on && !context->cancelled()) absl::SleepFor(absl::Milliseconds(1));
    result->mutable_simulate();
    return context->CheckCancelled();
  });
  ASSERT_TRUE(WaitFor([&] { return running.load(); }));
  coordinator_.Stop();
  ASSERT_TRUE(WaitFor([&] {
    return metrics_.Expose().find("d2g_worker_heartbeats_total{result=\"error\"} 0") ==
           std::string::npos;
  }));
  // Done while nobody listens: the result is kept until somebody does.
  go_on = true;
  ASSERT_TRUE(WaitFor([&] {
    return metrics_.Expose().find(
               "d2g_worker_tasks_total{kind=\"simulate\",result=\"completed\"} 1") !=
           std::string::npos;
  }));
  coordinator_.Start();
  ASSERT_TRUE(
      WaitFor([&] { return coordinator_.tasks().completed().size() == 1; }, absl::Seconds(60)));
}

TEST_F(LeaseLoopTest, StopGivesTheTaskBack) {
  coordinator_.tasks().AddTask(MakeTask(1));
  std::atomic<bool> running = false, flushed = false;
  StartLoop([&](const Task&, TaskContext* context, CompleteTaskRequest*) {
    running = true;
    EXPECT_TRUE(context->WaitForCancel(absl::Seconds(20)));
    EXPECT_EQ(context->cancel_reason(), CancelReason::kStopping);
    flushed = true;
    return context->CheckCancelled();
  });
  ASSERT_TRUE(WaitFor([&] { return running.load(); }));
  EXPECT_EQ(loop_->Stop(absl::Seconds(10)), LoopEnd::kLeftWork);
  EXPECT_TRUE(flushed);
  ASSERT_THAT(coordinator_.tasks().failed(), SizeIs(1));
  EXPECT_EQ(coordinator_.tasks().failed()[0].reason(), FailTaskRequest::REASON_PREEMPTED);
}

TEST_F(LeaseLoopTest, StopGivesBackOverTheHeadOfADeafRunner) {
  coordinator_.tasks().AddTask(MakeTask(1));
  std::atomic<bool> running = false, let_go = false;
  StartLoop([&](const Task&, TaskContext*, CompleteTaskRequest*) {
    running = true;
    while (!let_go) absl::SleepFor(absl::Milliseconds(1));
    return absl::OkStatus();
  });
  ASSERT_TRUE(WaitFor([&] { return running.load(); }));
  EXPECT_EQ(loop_->Stop(absl::Seconds(1)), LoopEnd::kStuck);
  ASSERT_THAT(coordinator_.tasks().failed(), SizeIs(1));
  EXPECT_EQ(coordinator_.tasks().failed()[0].reason(), FailTaskRequest::REASON_PREEMPTED);
  let_go = true;
  loop_.reset();
}

TEST_F(LeaseLoopTest, AReportThatNobodyTakesIsLeftWork) {
  coordinator_.tasks().AddTask(MakeTask(1));
  std::atomic<bool> running = false, go_on = false;
  StartLoop([&](const Task&, TaskContext*, CompleteTaskRequest* result) {
    running = true;
    while (!go_on) absl::SleepFor(absl::Milliseconds(1));
    result->mutable_simulate();
    return absl::OkStatus();
  });
  ASSERT_TRUE(WaitFor([&] { return running.load(); }));
  coordinator_.Stop();
  go_on = true;
  ASSERT_TRUE(WaitFor([&] {
    return metrics_.Expose().find(
               "d2g_worker_tasks_total{kind=\"simulate\",result=\"completed\"} 1") !=
           std::string::npos;
  }));
  // The loop reports until its grace ends, and the process has to end then.
  EXPECT_NE(loop_->Stop(absl::Seconds(1)), LoopEnd::kDone);
  loop_.reset();
}

TEST_F(LeaseLoopTest, StopWithoutATaskIsQuick) {
  StartLoop([](const Task&, TaskContext*, CompleteTaskRequest*) { return absl::OkStatus(); });
  ASSERT_TRUE(WaitFor([&] { return coordinator_.tasks().lease_calls() > 0; }));
  EXPECT_EQ(loop_->Stop(absl::Seconds(10)), LoopEnd::kDone);
}

TEST_F(LeaseLoopTest, StopIsQuickThoughTheCoordinatorIsAway) {
  coordinator_.Stop();
  StartLoop([](const Task&, TaskContext*, CompleteTaskRequest*) { return absl::OkStatus(); });
  const absl::Time start = absl::Now();
  EXPECT_EQ(loop_->Stop(absl::Seconds(30)), LoopEnd::kDone);
  EXPECT_LT(absl::Now() - start, absl::Seconds(1.5));
}

}  // namespace
}  // namespace d2g::lease

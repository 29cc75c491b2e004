// Processes that are told to stop in the middle of a job lose nothing: a worker gives its task
// back, the ranks of a draining agent checkpoint first.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/time/clock.h"
#include "services/common/program.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/test_cluster.h"
#include "tests/testing/test_job.h"
#include "tests/testing/torch/tiny_teacher.h"
#include "tests/testing/wait.h"

namespace d2g {
namespace {

using ::d2g::coordinator::v1::Job;
using ::d2g::testing::IsOk;
using ::d2g::testing::Role;
using ::d2g::testing::TestCluster;
using ::d2g::testing::WaitFor;
using ::testing::Each;

constexpr absl::Duration kPatience = absl::Minutes(2);

class DrainTest : public ::testing::Test {
 protected:
  DrainTest() { testing::WriteTinyTeacher(cluster_.dir().File("teacher")); }

  void Submit(int64_t triples, int64_t steps, int solver_steps) {
    ASSERT_THAT(cluster_.Start(), IsOk());
    auto spec = testing::MakeTestJob(cluster_.dir().File("teacher"), cluster_.dir().File("out"),
                                     triples, steps);
    spec.mutable_simulate()->mutable_solver()->set_steps(solver_steps);
    // No checkpoint but those that a voluntary change asks for.
    spec.mutable_train()->set_checkpoint_every(steps);
    ASSERT_OK_AND_ASSIGN(const Job job, cluster_.Submit(spec, testing::kTestPrompts));
    job_ = job.name();
  }
  Job Now() {
    coordinator::v1::GetJobRequest request;
    request.set_name(job_);
    const auto job = cluster_.client().GetJob(request, absl::Now() + kPatience);
    return job.ok() ? *job : Job();
  }
  int64_t Done(coordinator::v1::Stage stage) {
    const Job job = Now();
    for (const auto& progress : job.stages()) {
      if (progress.stage() == stage) return progress.done();
    }
    return 0;
  }
  std::vector<coordinator::v1::TaskInfo> Tasks() {
    coordinator::v1::ListTasksRequest request;
    request.set_parent(job_);
    const auto tasks = cluster_.client().ListTasks(request, absl::Now() + kPatience);
    if (!tasks.ok()) return {};
    return {tasks->tasks().begin(), tasks->tasks().end()};
  }

  TestCluster cluster_;
  std::string job_;
};

TEST_F(DrainTest, AWorkerGivesItsTaskBackAndAnAgentLosesNoStep) {
  constexpr int64_t kTriples = 256;
  constexpr int64_t kSteps = 300;
  Submit(kTriples, kSteps, /*solver_steps=*/100);
  if (HasFatalFailure()) return;

  ASSERT_TRUE(WaitFor([&] { return Done(coordinator::v1::STAGE_SIMULATE) > 0; }, kPatience));
  ASSERT_TRUE(WaitFor([&] { return Tasks().size() == 2; }, kPatience)) << cluster_.Logs();
  const auto stopped = cluster_.Terminate(Role::kWorker, 0);
  EXPECT_EQ(stopped.code, common::kExitStopped) << stopped.output;
  EXPECT_THAT(stopped.output, ::testing::HasSubstr("giving a task back"));
  // Nobody is blamed: the task is free again, or with the other worker, without a failure.
  for (const auto& task : Tasks()) EXPECT_EQ(task.failures(), 0) << task.DebugString();
  ASSERT_THAT(cluster_.Restart(Role::kWorker, 0), IsOk());

  ASSERT_TRUE(WaitFor([&] { return Done(coordinator::v1::STAGE_TRAIN) >= 30; }, kPatience))
      << cluster_.Logs();
  ASSERT_EQ(Now().checkpoint_step(), 0);
  const int64_t before = Done(coordinator::v1::STAGE_TRAIN);
  const auto drained = cluster_.Terminate(Role::kTrainer, 0, absl::Minutes(1));
  EXPECT_EQ(drained.code, common::kExitStopped) << drained.output;
  const int64_t saved = Now().checkpoint_step();
  EXPECT_GE(saved, before);
  EXPECT_LT(saved, kSteps);
  ASSERT_THAT(cluster_.Restart(Role::kTrainer, 0), IsOk());

  ASSERT_OK_AND_ASSIGN(const Job job, cluster_.WaitForEnd(job_, absl::Minutes(4)));
  ASSERT_EQ(job.state(), Job::STATE_SUCCEEDED) << job.DebugString() << cluster_.Logs();
  EXPECT_EQ(job.checkpoint_step(), kSteps);
  // One generation before the drain, one after.
  EXPECT_EQ(job.generation(), 2);
  ASSERT_OK_AND_ASSIGN(const auto audit, cluster_.Audit(job.dataset(), kTriples));
  EXPECT_EQ(audit.present, kTriples);
  EXPECT_EQ(audit.bad, 0);
  EXPECT_THAT(audit.copies, Each(1));
}

}  // namespace
}  // namespace d2g

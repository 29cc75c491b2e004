// How a job whose tasks fail is slowed, and that it slows nobody else.
#include <string>
#include <vector>

#include "coordinator/rows/limits.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/harness.h"
#include "tests/testing/status_matchers.h"

namespace d2g::coordinator {
namespace {

using ::d2g::testing::IsOk;
using ::testing::HasSubstr;
using v1::FailTaskRequest;
using v1::Job;

// Two jobs of 8 tasks each, on datasets of their own.
struct TwoJobs {
  explicit TwoJobs(Harness* h) {
    auto spec = SmallSpec("/tmp/first");
    first = h->Create(spec)->name();
    spec = SmallSpec("/tmp/second");
    spec.mutable_simulate()->set_seed(3);
    second = h->Create(spec)->name();
  }
  static bool IsOf(const v1::Task& task, const std::string& job) {
    return task.name().rfind(job + "/", 0) == 0;
  }
  std::string first, second;
};

TEST(JobTrialsTest, AJobWhoseTasksFailStandsBehindTheOthers) {
  Harness h;
  const TwoJobs jobs(&h);
  const v1::Task bad = h.LeaseOne("a");
  ASSERT_TRUE(TwoJobs::IsOf(bad, jobs.first)) << "in the order of submission";
  h.Fail(bad, "a", FailTaskRequest::REASON_ERROR);
  for (int i = 0; i < 8; ++i) {
    const v1::Task task = h.LeaseOne("a");
    ASSERT_TRUE(TwoJobs::IsOf(task, jobs.second)) << i;
    ASSERT_THAT(h.Complete(task, "a"), IsOk());
    h.Advance(absl::Seconds(1));
  }
  EXPECT_EQ(h.Get(jobs.second).stages(0).done(), 128);
  // Nothing else is left to do.
  const v1::Task again = h.LeaseOne("a");
  ASSERT_EQ(again.name(), bad.name());
  ASSERT_THAT(h.Complete(again, "a"), IsOk());
}

TEST(JobTrialsTest, AJobWhoseTasksFailIsTriedNowAndThenThoughOthersKeepTheWorkersBusy) {
  Harness h;
  const TwoJobs jobs(&h);
  h.Fail(h.LeaseOne("a"), "a", FailTaskRequest::REASON_ERROR);
  // One worker, never idle, for whom there is always more of the second job.
  const auto next = [&] {
    const v1::Task task = h.LeaseOne("a");
    h.Fail(task, "a", FailTaskRequest::REASON_PREEMPTED);
    return TwoJobs::IsOf(task, jobs.first);
  };
  h.Advance(kMaxTrialDelay - absl::Seconds(1));
  EXPECT_FALSE(next());
  h.Advance(absl::Seconds(1));
  const v1::Task trial = h.LeaseOne("a");
  ASSERT_TRUE(TwoJobs::IsOf(trial, jobs.first));
  const v1::Task other = h.LeaseOne("b");
  EXPECT_TRUE(TwoJobs::IsOf(other, jobs.second)) << "one at a time";
  ASSERT_THAT(h.Complete(other, "b"), IsOk());
  h.Fail(trial, "a", FailTaskRequest::REASON_ERROR);
  h.Advance(kMaxTrialDelay);
  EXPECT_FALSE(next()) << "it waits longer after each failure";
  h.Advance(kFirstTaskBackoff);
  EXPECT_TRUE(next());
}

TEST(JobTrialsTest, OneTaskOfAFailingJobIsTriedAtATimeUntilOneMakesProgress) {
  Harness h;
  ASSERT_OK_AND_ASSIGN(const Job job, h.Create(SmallSpec()));
  h.Fail(h.LeaseOne("a"), "a", FailTaskRequest::REASON_ERROR);
  const v1::Task trial = h.LeaseOne("b");
  ASSERT_TRUE(trial.has_simulate());
  EXPECT_FALSE(h.LeaseOne("c").has_simulate());
  EXPECT_FALSE(h.LeaseOne("d").has_simulate());
  ASSERT_TRUE(h.Beat(trial, 0));
  EXPECT_FALSE(h.LeaseOne("c").has_simulate()) << "it only loads so far";
  ASSERT_TRUE(h.Beat(trial, 1));
  EXPECT_TRUE(h.LeaseOne("c").has_simulate());
  EXPECT_TRUE(h.LeaseOne("d").has_simulate());
}

TEST(JobTrialsTest, AFailingJobIsTriedMoreAndMoreRarelyAndFailsInGoodTime) {
  Harness h;
  auto spec = SmallSpec();
  spec.mutable_simulate()->set_task_size(2);  // 64 tasks, each of which fails at once
  ASSERT_OK_AND_ASSIGN(const Job job, h.Create(spec));
  int tries = 0;
  absl::Duration passed;
  for (; h.Get(job.name()).state() == Job::STATE_RUNNING; passed += absl::Milliseconds(500)) {
    ASSERT_LT(passed, 3 * kTaskFailureSpan);
    for (const char* worker : {"a", "b", "c"}) {
      const v1::Task task = h.LeaseOne(worker);
      if (!task.has_simulate()) continue;
      ++tries;
      h.Fail(task, worker, FailTaskRequest::REASON_ERROR, "not finite");
    }
    h.Advance(absl::Milliseconds(500));
  }
  EXPECT_GE(passed, kTaskFailureSpan);
  EXPECT_LE(passed, 2 * kTaskFailureSpan);
  EXPECT_LT(tries, 30);
  EXPECT_THAT(h.Get(job.name()).error(), HasSubstr("not finite"));
}

TEST(JobTrialsTest, ANodeOnWhichEverythingFailsDoesNotTakeTaskAfterTask) {
  Harness h;
  auto spec = SmallSpec();
  spec.mutable_simulate()->set_task_size(1);  // 128 tasks
  ASSERT_OK_AND_ASSIGN(const Job job, h.Create(spec));
  int failed = 0;
  for (int done = 0; done < 60; ++done) {
    const v1::Task good = h.LeaseOne("good");
    ASSERT_TRUE(good.has_simulate());
    const v1::Task bad = h.LeaseOne("bad");
    if (bad.has_simulate()) {
      ++failed;
      h.Fail(bad, "bad", FailTaskRequest::REASON_ERROR, "no mount");
    }
    ASSERT_THAT(h.Complete(good, "good"), IsOk());
    h.Advance(absl::Seconds(1));
  }
  EXPECT_LE(failed, 7) << "1, 2, 4, 8 ... s apart";
  EXPECT_GE(failed, 5) << "but it is asked again";
}

TEST(JobTrialsTest, AnExportThatFailsDoesNotHoldUpTheSameJobsEvaluationOrOtherJobs) {
  Harness h;
  ASSERT_OK_AND_ASSIGN(const Job done, h.Create(SmallSpec("/tmp/first")));
  h.SimulateAll();
  ASSERT_THAT(h.Join("agent", 2), IsOk());
  h.coordinator().Tick();
  ASSERT_THAT(h.Commit(done.name(), 1, 100), IsOk());
  auto spec = SmallSpec("/tmp/second");
  spec.mutable_simulate()->set_seed(3);
  ASSERT_OK_AND_ASSIGN(const Job other, h.Create(spec));
  const std::vector<v1::TaskKind> all = {v1::TASK_KIND_SIMULATE, v1::TASK_KIND_EVALUATE,
                                         v1::TASK_KIND_EXPORT};
  const v1::Task exporting = h.LeaseOne("a", all);
  ASSERT_TRUE(exporting.has_export_());
  h.Fail(exporting, "a", FailTaskRequest::REASON_ERROR, "no space");
  h.Advance(kFirstTaskBackoff);
  const v1::Task evaluating = h.LeaseOne("a", all);
  ASSERT_TRUE(evaluating.has_evaluate());
  ASSERT_TRUE(h.Beat(evaluating, 1));
  EXPECT_TRUE(h.LeaseOne("b", all).has_simulate()) << "the other job's, before another export";
  EXPECT_TRUE(h.LeaseOne("c", {v1::TASK_KIND_EXPORT}).has_export_());
}

}  // namespace
}  // namespace d2g::coordinator

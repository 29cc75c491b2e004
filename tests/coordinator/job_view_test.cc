// What a job shows of its stages: totals, time left, and what will hold it up.
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/gang_fixture.h"
#include "tests/testing/status_matchers.h"

namespace d2g::coordinator {
namespace {

using ::d2g::testing::IsOk;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;
using v1::GangAssignment;
using v1::Job;

TEST_F(GangTest, AShortageOfRanksIsToldWhileTriplesAreSimulated) {
  ASSERT_THAT(h_.SetDesired(job_, Job::DESIRED_STATE_CANCELLED), IsOk());
  auto spec = SmallSpec("/tmp/other");
  spec.mutable_simulate()->set_seed(3);
  ASSERT_OK_AND_ASSIGN(const Job job, h_.Create(spec));
  job_ = job.name();
  ASSERT_THAT(h_.Join("a", 1), IsOk());
  ASSERT_THAT(h_.Complete(h_.LeaseOne("w"), "w"), IsOk());
  EXPECT_THAT(h_.Get(job_).health(), Contains("training will need 2 ranks (train.min_ranks); all "
                                              "agents together have 1"));
  ASSERT_THAT(h_.Join("b", 1), IsOk());
  EXPECT_THAT(h_.Get(job_).health(), Not(Contains(HasSubstr("will need"))));
}

TEST_F(GangTest, TheTimeLeftIsTakenFromThisGenerationsSteps) {
  ASSERT_THAT(h_.Join("a", 2), IsOk());
  h_.coordinator().Tick();
  GangAssignment current = Beat(Harness::Report("a", kIdle)).assignment();
  // One step in five seconds, from `first` to `last`.
  const auto train = [&](int64_t first, int64_t last) {
    for (int64_t step = first; step <= last; ++step) {
      for (int s = 0; s < 5; ++s) {
        Beat(Harness::Report("a", kRunning, current, step));
        h_.Advance(absl::Seconds(1));
      }
    }
  };
  const auto left = [&] { return h_.Get(job_).stages(1).eta().seconds(); };
  train(0, 0);
  h_.Advance(absl::Seconds(5));  // loads for long
  train(0, 3);
  EXPECT_EQ(h_.Get(job_).stages(1).done(), 3);
  EXPECT_NEAR(static_cast<double>(left()), 97 * 5, 97 * 2.5);
  EXPECT_GT(left(), 0);
  ASSERT_THAT(h_.Commit(job_, 1, 3), IsOk());
  // The next generation takes its time to start.
  Beat(Harness::Report("a", kBroken, current));
  for (int i = 0; i < 20; ++i) {
    h_.Advance(absl::Seconds(1));
    const auto next = Beat(Harness::Report("a", kIdle));
    if (next.assignment().generation() == 2) current = next.assignment();
  }
  ASSERT_EQ(current.generation(), 2);
  train(3, 6);
  EXPECT_NEAR(static_cast<double>(left()), 94 * 5, 94 * 2.5);
  ASSERT_THAT(h_.SetDesired(job_, Job::DESIRED_STATE_PAUSED), IsOk());
  Beat(Harness::Report("a", kLeft, current));
  Idle(absl::Seconds(25));
  ASSERT_THAT(h_.SetDesired(job_, Job::DESIRED_STATE_RUNNING), IsOk());
  EXPECT_EQ(h_.Get(job_).stages(1).rate(), 0) << "not of the time before the pause";
}

TEST_F(GangTest, TheEvaluationHasOneTotalFromStartToEnd) {
  StartOne();
  ASSERT_THAT(h_.Commit(job_, 1, 100), IsOk());
  const auto stage = [&](int number) { return h_.Get(job_).stages(number); };
  ASSERT_EQ(stage(3).unit(), "pictures");
  EXPECT_EQ(stage(3).total(), 8);
  const v1::Task evaluating = h_.LeaseOne("e", {v1::TASK_KIND_EVALUATE});
  EXPECT_EQ(stage(3).total(), 8);
  ASSERT_TRUE(h_.Beat(evaluating, 6));  // of 16: two models make each picture
  EXPECT_EQ(stage(3).done(), 3);
  EXPECT_EQ(stage(3).total(), 8);
  ASSERT_THAT(h_.Complete(evaluating, "e"), IsOk());
  EXPECT_EQ(stage(3).done(), 8);
  EXPECT_EQ(stage(3).total(), 8);
}

TEST_F(GangTest, TheExportsTotalIsTheWorkersThoughNoHeartbeatToldIt) {
  StartOne();
  ASSERT_THAT(h_.Commit(job_, 1, 100), IsOk());
  EXPECT_EQ(h_.Get(job_).stages(2).total(), 0) << "unknown";
  const v1::Task exporting = h_.LeaseOne("e", {v1::TASK_KIND_EXPORT});
  v1::CompleteTaskRequest request;
  request.set_task(exporting.name());
  request.set_lease_id(exporting.lease_id());
  *request.mutable_worker() = Harness::Worker("e");
  request.mutable_export_()->set_checkpoint_step(100);
  request.set_total(12);
  ASSERT_THAT(h_.Decide([&](ClusterState& s, Moment now) { return s.CompleteTask(request, now); }),
              IsOk());
  EXPECT_EQ(h_.Get(job_).stages(2).done(), 12);
  EXPECT_EQ(h_.Get(job_).stages(2).total(), 12);
}

}  // namespace
}  // namespace d2g::coordinator

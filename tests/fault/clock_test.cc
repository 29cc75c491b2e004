// Somebody sets the wall clock while a job runs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/testing/clock_shift.h"
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

constexpr absl::Duration kPatience = absl::Minutes(2);
// Whoever is stuck for longer than this is thought to be gone.
constexpr absl::Duration kTimeout = absl::Seconds(15);
// Shorter: what goes on only once others gave it up stood still.
constexpr absl::Duration kLongestStall = absl::Seconds(10);
// How long progress is looked at after each step.
constexpr absl::Duration kObserved = absl::Seconds(25);

testing::TestClusterOptions SmallCluster() {
  testing::TestClusterOptions options;
  options.shards = 1;
  options.workers = 1;
  options.slots = 1;
  options.lease_duration = kTimeout;
  options.agent_timeout = kTimeout;
  return options;
}

// The longest time for which a number that should grow did not.
class Stall {
 public:
  void Look(int64_t value, absl::Time now) {
    if (value > last_) {
      last_ = value;
      since_ = now;
    }
    longest_ = std::max(longest_, now - since_);
  }
  absl::Duration longest() const { return longest_; }

 private:
  int64_t last_ = -1;
  absl::Time since_;
  absl::Duration longest_;
};

class ClockTest : public ::testing::Test {
 protected:
  ClockTest() { testing::WriteTinyTeacher(cluster_.dir().File("teacher")); }

  // More triples and steps than get done: both stages are at work all the time.
  void StartLongJob() {
    ASSERT_TRUE(clock_.ok());
    ASSERT_THAT(cluster_.Start(), IsOk());
    auto spec = testing::MakeTestJob(cluster_.dir().File("teacher"), cluster_.dir().File("out"),
                                     /*triples=*/1'000'000, /*steps=*/1'000'000);
    spec.mutable_simulate()->set_min_triples(128);
    spec.mutable_train()->set_min_ranks(1);
    spec.mutable_train()->set_max_ranks(1);
    ASSERT_OK_AND_ASSIGN(const Job job, cluster_.Submit(spec, testing::kTestPrompts));
    job_ = job.name();
    ASSERT_TRUE(WaitFor([&] { return Done(coordinator::v1::STAGE_TRAIN) > 10; }, kPatience))
        << cluster_.Logs();
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

  // Sets the clock and watches both stages for a while.
  void SetAndWatch(absl::Duration shift) {
    Stall simulate;
    Stall train;
    clock_.Set(shift);
    const absl::Time end = absl::Now() + kObserved;
    WaitFor(
        [&] {
          absl::SleepFor(absl::Milliseconds(100));
          simulate.Look(Done(coordinator::v1::STAGE_SIMULATE), absl::Now());
          train.Look(Done(coordinator::v1::STAGE_TRAIN), absl::Now());
          return absl::Now() >= end;
        },
        2 * kObserved);
    std::cout << "clock moved to " << shift << ": simulate stood still for " << simulate.longest()
              << ", train for " << train.longest() << std::endl;
    EXPECT_LT(simulate.longest(), kLongestStall) << cluster_.Logs();
    EXPECT_LT(train.longest(), kLongestStall) << cluster_.Logs();
  }

  // Before the cluster: its processes start with the moved clock.
  testing::ClockShift clock_{std::getenv("D2G_CLOCK_SHIM")};
  TestCluster cluster_{SmallCluster()};
  std::string job_;
};

TEST_F(ClockTest, TheClusterGoesOnWhenTheWallClockIsSetBackOrForwardByAnHour) {
  StartLongJob();
  if (HasFatalFailure()) return;
  SetAndWatch(absl::Hours(-1));
  SetAndWatch(absl::Hours(1));
  EXPECT_EQ(Now().generation(), 1) << "the gang broke: " << cluster_.Logs();
  EXPECT_EQ(Now().state(), Job::STATE_RUNNING);
  const auto metrics = testing::ParseMetrics(cluster_.Scrape(Role::kCoordinator));
  const auto lapsed = metrics.find("d2g_coordinator_tasks_lapsed_total{kind=\"simulate\"}");
  ASSERT_NE(lapsed, metrics.end());
  EXPECT_EQ(lapsed->second, 0) << cluster_.Logs();
}

}  // namespace
}  // namespace d2g

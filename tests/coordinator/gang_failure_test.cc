// Why a generation breaks, whom it is blamed on, and when the job cannot go on.
#include "coordinator/rows/limits.h"
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
using v1::GangHeartbeatRequest;
using v1::GangHeartbeatResponse;
using v1::Job;

TEST_F(GangTest, BadInputOfARankFailsTheJobAtOnce) {
  auto broken = Harness::Report("a", kBroken, StartOne());
  broken.set_error("features/config.json must be a SequentialNet (exit code 3)");
  broken.set_failure(GangHeartbeatRequest::FAILURE_BAD_INPUT);
  EXPECT_EQ(Action(broken), GangHeartbeatResponse::ACTION_IDLE);
  EXPECT_EQ(h_.Get(job_).state(), Job::STATE_FAILED);
  EXPECT_EQ(h_.Get(job_).error(),
            "features/config.json must be a SequentialNet (exit code 3) (agent a on node node-a)");
}

TEST_F(GangTest, DivergingTwiceAtTheSameStepFailsTheJob) {
  GangAssignment current = StartOne();
  const auto diverge = [&](int64_t step) {
    auto broken = Harness::Report("a", kBroken, current);
    broken.set_error("gradients were not finite in 10 steps in a row");
    broken.set_failure(GangHeartbeatRequest::FAILURE_NOT_FINITE);
    broken.set_failed_step(step);
    Beat(broken);
  };
  const auto next = [&] {
    const int64_t before = current.generation();
    for (int i = 0; i < 60 && current.generation() <= before; ++i) {
      h_.Advance(absl::Seconds(1));
      current = Beat(Harness::Report("a", kIdle)).assignment();
    }
    EXPECT_EQ(current.generation(), before + 1);
    Beat(Harness::Report("a", kRunning, current, 20));
  };
  diverge(30);
  EXPECT_EQ(h_.Get(job_).state(), Job::STATE_RUNNING);
  next();
  ASSERT_THAT(h_.Commit(job_, 2, 20), IsOk()) << "a checkpoint between the two changes nothing";
  diverge(31);
  EXPECT_EQ(h_.Get(job_).state(), Job::STATE_RUNNING) << "another step: perhaps by chance";
  h_.Restart();
  h_.BeatShard(0);
  h_.BeatShard(1);
  ASSERT_THAT(h_.Join("a", 2), IsOk());
  next();
  diverge(31);
  EXPECT_EQ(h_.Get(job_).state(), Job::STATE_FAILED);
  EXPECT_EQ(h_.Get(job_).error(),
            "training diverged twice at step 31: gradients were not finite in 10 steps in a row "
            "(agent a on node node-a)");
}

// Two agents with a rank each, running.
class TwoAgentsTest : public GangTest {
 protected:
  void SetUp() override {
    GangTest::SetUp();
    ASSERT_THAT(h_.Join("a", 1), IsOk());
    ASSERT_THAT(h_.Join("b", 1), IsOk());
    h_.coordinator().Tick();
    a_ = Beat(Harness::Report("a", kIdle)).assignment();
    b_ = Beat(Harness::Report("b", kIdle)).assignment();
    ASSERT_EQ(a_.generation(), 1);
    ASSERT_EQ(b_.generation(), 1);
  }
  static GangHeartbeatRequest Broken(const std::string& agent, const GangAssignment& assignment,
                                     GangHeartbeatRequest::Failure failure,
                                     const std::string& error) {
    auto broken = Harness::Report(agent, kBroken, assignment);
    broken.set_failure(failure);
    broken.set_error(error);
    return broken;
  }

  GangAssignment a_;
  GangAssignment b_;
};

TEST_F(TwoAgentsTest, TheReasonIsThatOfTheRankThatHadIt) {
  Beat(Harness::Report("a", kRunning, a_, 5));
  Beat(Harness::Report("b", kRunning, b_, 5));
  // Rank 1 notices that rank 0 is gone before rank 0's agent has said why.
  Beat(Broken("b", b_, GangHeartbeatRequest::FAILURE_PEER_LOST, "rank 1: all-reduce: gloo"));
  EXPECT_THAT(h_.Get(job_).health(), Contains(HasSubstr("rank 1: all-reduce: gloo")));
  Beat(Broken("a", a_, GangHeartbeatRequest::FAILURE_UNSPECIFIED, "rank 0: No space left"));
  EXPECT_THAT(h_.Get(job_).health(),
              Contains("rank 0: No space left (agent a on node node-a); training broke 1 of at "
                       "most 10 times since the last checkpoint"));
  // Nor does a word about the consequences that comes later replace it.
  Beat(Broken("b", b_, GangHeartbeatRequest::FAILURE_PEER_LOST, "rank 1: all-reduce: gloo"));
  EXPECT_THAT(h_.Get(job_).health(), Contains(HasSubstr("rank 0: No space left")));
}

TEST_F(TwoAgentsTest, ALateReasonThatLeavesNoHopeFailsTheJob) {
  Beat(Broken("b", b_, GangHeartbeatRequest::FAILURE_PEER_LOST, "rank 1: all-reduce: gloo"));
  auto other = Broken("a", a_, GangHeartbeatRequest::FAILURE_BAD_INPUT, "rank 0: out of range");
  other.set_generation(7);
  Beat(other);
  EXPECT_EQ(h_.Get(job_).state(), Job::STATE_RUNNING) << "of another generation";
  Beat(Broken("a", a_, GangHeartbeatRequest::FAILURE_BAD_INPUT, "rank 0: out of range"));
  EXPECT_EQ(h_.Get(job_).state(), Job::STATE_FAILED);
  EXPECT_THAT(h_.Get(job_).error(), HasSubstr("rank 0: out of range"));
  Beat(Broken("a", a_, GangHeartbeatRequest::FAILURE_BAD_INPUT, "rank 0: out of range"));
}

// A job that one rank can train, though two are better; agents a and b have one each.
class StartTest : public TwoAgentsTest {
 protected:
  explicit StartTest(int min_ranks = 1) : min_ranks_(min_ranks) {}
  v1::JobSpec Spec() const override {
    v1::JobSpec spec = SmallSpec();
    spec.mutable_train()->set_min_ranks(min_ranks_);
    return spec;
  }
  // Rank 0's agent starts its rank, b's rank never gets beyond "start".
  void BeatBoth(bool b_starts = false) {
    const auto a = Beat(Harness::Report("a", a_running_ ? kRunning : kIdle, a_));
    a_running_ = a.action() == GangHeartbeatResponse::ACTION_RUN;
    if (a_running_) a_ = a.assignment();
    auto report = Harness::Report("b", b_running_ ? kRunning : kIdle, b_);
    for (auto& rank : *report.mutable_ranks()) rank.set_phase(b_starts ? "load" : "start");
    const auto b = Beat(report);
    b_running_ = b.action() == GangHeartbeatResponse::ACTION_RUN;
    if (b_running_) b_ = b.assignment();
  }
  void Pass(absl::Duration time, bool b_starts = false) {
    for (absl::Duration passed; passed < time; passed += absl::Seconds(1)) {
      BeatBoth(b_starts);
      h_.Advance(absl::Seconds(1));
    }
    BeatBoth(b_starts);
  }

  const absl::Duration limit_ = GangOptions().start_timeout;
  bool a_running_ = true;
  bool b_running_ = true;

 private:
  const int min_ranks_;
};

// The same, with a job that needs both.
class StartOfBothTest : public StartTest {
 protected:
  StartOfBothTest() : StartTest(2) {}
};

TEST_F(StartTest, HealthNamesTheNodeWhoseRanksDoNotStart) {
  Pass(kSlowStart + absl::Seconds(1));
  EXPECT_THAT(h_.Get(job_).health(),
              Contains("waits for ranks of node node-b (agent b) to start: for 10s of at most 2m"));
  Pass(absl::Seconds(1), /*b_starts=*/true);
  EXPECT_THAT(h_.Get(job_).health(), Not(Contains(HasSubstr("waits for ranks"))));
  Pass(2 * limit_, /*b_starts=*/true);
  EXPECT_EQ(h_.Get(job_).generation(), 1) << "loading may last";
}

TEST_F(StartTest, TheOneThatDidNotStartIsBlamedAndLeftOut) {
  Pass(limit_ - absl::Seconds(2));
  EXPECT_EQ(h_.Get(job_).generation(), 1);
  Pass(absl::Seconds(10));
  EXPECT_THAT(h_.Get(job_).health(),
              Contains(HasSubstr("agent b on node node-b did not start its ranks within 2m; "
                                 "training broke 1 of at most 10 times")));
  ASSERT_EQ(h_.Get(job_).generation(), 2);
  EXPECT_TRUE(a_running_);
  EXPECT_FALSE(b_running_);
  EXPECT_EQ(a_.generation(), 2);
  EXPECT_EQ(a_.world_size(), 1);
}

TEST_F(StartTest, ItIsTriedAgainAfterATimeThatGrows) {
  const auto break_it = [&] {
    auto broken = Harness::Report("a", kBroken, a_);
    broken.set_error("bad luck");
    Beat(broken);
    ASSERT_THAT(h_.Get(job_).health(), Contains(HasSubstr("bad luck")));
    a_running_ = false;
  };
  Pass(limit_ + absl::Seconds(5));
  ASSERT_EQ(a_.world_size(), 1);
  Pass(kFirstLeftOut);
  break_it();
  Pass(absl::Seconds(5));
  EXPECT_EQ(a_.world_size(), 2) << "its time is over";
  Pass(limit_ + absl::Seconds(5));
  ASSERT_EQ(a_.world_size(), 1) << "it has not started again";
  Pass(kFirstLeftOut);
  break_it();
  Pass(absl::Seconds(5));
  EXPECT_EQ(a_.world_size(), 1) << "twice as long this time";
  Pass(kFirstLeftOut);
  break_it();
  Pass(absl::Seconds(10), /*b_starts=*/true);
  ASSERT_EQ(a_.world_size(), 2);
  EXPECT_TRUE(b_running_);
}

TEST_F(StartOfBothTest, WithoutItThereAreTooFew) {
  Pass(limit_ + absl::Seconds(10));
  EXPECT_EQ(h_.Get(job_).generation(), 2);
  EXPECT_TRUE(b_running_);
}

TEST_F(StartTest, AnAgentThatSaysThatItsRankDidNotStartIsLeftOutToo) {
  Beat(Harness::Report("a", kRunning, a_));
  Beat(Broken("b", b_, GangHeartbeatRequest::FAILURE_NOT_STARTED, "rank 1 did not start"));
  b_running_ = false;
  Pass(absl::Seconds(5));
  EXPECT_EQ(a_.generation(), 2);
  EXPECT_EQ(a_.world_size(), 1);
}

// b's rank cannot reach rank 0 at a's address: a is left out, each time for longer.
TEST_F(StartTest, AnAgentWhoseRankZeroNobodyReachesIsLeftOut) {
  const auto unreachable = [&] {
    Beat(Harness::Report("a", kRunning, a_));
    Beat(Broken("b", b_, GangHeartbeatRequest::FAILURE_RANK0_UNREACHABLE, "rank 1: no route"));
    b_running_ = false;
  };
  unreachable();
  EXPECT_THAT(h_.Get(job_).health(), Contains(HasSubstr("rank 1: no route")));
  Pass(absl::Seconds(5), /*b_starts=*/true);
  EXPECT_EQ(b_.generation(), 2);
  EXPECT_EQ(b_.world_size(), 1);
  EXPECT_TRUE(b_running_);
  EXPECT_FALSE(a_running_);
  Pass(kFirstLeftOut, /*b_starts=*/true);
  auto broken = Harness::Report("b", kBroken, b_);
  Beat(broken);
  b_running_ = false;
  for (int k = 0; k < 5 && !(a_running_ && b_running_); ++k) Pass(absl::Seconds(1));
  ASSERT_EQ(b_.world_size(), 2) << "its time is over";
  unreachable();
  Pass(kFirstLeftOut + absl::Seconds(5), /*b_starts=*/true);
  EXPECT_EQ(b_.world_size(), 1) << "twice as long this time";
}

TEST_F(TwoAgentsTest, WhyRankZeroCouldNotBeReachedIsItsOwnWord) {
  Beat(Broken("b", b_, GangHeartbeatRequest::FAILURE_RANK0_UNREACHABLE, "rank 1: no route"));
  Beat(Broken("a", a_, GangHeartbeatRequest::FAILURE_UNSPECIFIED, "rank 0: out of memory"));
  EXPECT_THAT(h_.Get(job_).health(), Contains(HasSubstr("rank 0: out of memory")));
}

TEST_F(StartTest, NobodyWaitsForRanksThatWaitForRankZerosAddress) {
  for (int i = 0; i < 15; ++i) {
    EXPECT_EQ(Action(Harness::Report("a", kIdle)), GangHeartbeatResponse::ACTION_RUN);
    EXPECT_EQ(Action(Harness::Report("b", kRunning)), GangHeartbeatResponse::ACTION_RUN);
    h_.Advance(absl::Seconds(1));
  }
  EXPECT_THAT(h_.Get(job_).health(), Contains(HasSubstr("waits for ranks of node node-a")));
}

TEST_F(StartTest, ARestartBlamesNobodyForTheTimeBefore) {
  Pass(limit_ - absl::Seconds(5), /*b_starts=*/true);
  h_.Restart();
  Pass(absl::Seconds(20), /*b_starts=*/true);
  EXPECT_EQ(h_.Get(job_).generation(), 1);
  EXPECT_THAT(h_.Get(job_).health(), Not(Contains(HasSubstr("waits for ranks"))));
}

}  // namespace
}  // namespace d2g::coordinator

#include "worker/gang/gang_agent.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "services/common/file_io.h"
#include "services/common/utf8.h"
#include "tests/testing/fake_coordinator.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/wait.h"

namespace d2g::gang {
namespace {

using ::d2g::testing::FakeCoordinator;
using ::d2g::testing::TempDir;
using ::d2g::testing::WaitFor;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

using Request = coordinator::v1::GangHeartbeatRequest;
using Response = coordinator::v1::GangHeartbeatResponse;

constexpr char kJob[] = "jobs/a";

class GangAgentTest : public ::testing::Test {
 protected:
  GangAgentTest() : link_(coordinator_.address()), metrics_("test") {
    options_.agent = "agent-1";
    options_.node = "node-1";
    options_.build = "test";
    options_.slots = 2;
    options_.launch.coordinator = coordinator_.address();
    options_.ranks.rank_command = {std::string(getenv("D2G_BIN_DIR")) + "/fake_rank"};
    options_.ranks.work_dir = dir_.path();
    options_.rpc_timeout = absl::Seconds(2);
  }
  ~GangAgentTest() override { Finish(); }

  void StartAgent() {
    agent_ = std::make_unique<GangAgent>(options_, &link_, &metrics_);
    thread_ = std::thread([this] { left_work_ = agent_->Run(); });
  }
  void Finish() {
    if (!thread_.joinable()) return;
    agent_->Drain();
    thread_.join();
  }
  Response RunAnswer(const std::string& behaviour, int64_t generation = 1) {
    Response answer;
    answer.set_action(Response::ACTION_RUN);
    auto& assignment = *answer.mutable_assignment();
    assignment.set_job(kJob);
    assignment.set_generation(generation);
    assignment.set_world_size(2);
    assignment.set_rank_count(2);
    assignment.mutable_work()->mutable_spec()->set_display_name(behaviour);
    return answer;
  }
  static Response Answer(Response::Action action) {
    Response answer;
    answer.set_action(action);
    return answer;
  }
  Request last() { return coordinator_.training().last(); }
  bool WaitForState(Request::AgentState state) {
    return WaitFor([&] { return last().state() == state; });
  }
  // Both ranks of the generation have reached the step.
  bool WaitForSteps(int64_t generation, int64_t step) {
    return WaitFor([&] {
      const Request report = last();
      return report.generation() == generation && report.ranks_size() == 2 &&
             report.ranks(0).step() >= step && report.ranks(1).step() >= step;
    });
  }

  TempDir dir_;
  FakeCoordinator coordinator_;
  coordinator::CoordinatorClient link_;
  common::Metrics metrics_;
  GangAgentOptions options_;
  std::unique_ptr<GangAgent> agent_;
  // What Run said.
  bool left_work_ = false;
  std::thread thread_;
};

TEST_F(GangAgentTest, RunsAGenerationToItsEnd) {
  coordinator_.training().SetAnswer(RunAnswer("steps=20"));
  StartAgent();
  ASSERT_TRUE(WaitForState(Request::AGENT_STATE_LEFT));
  const Request report = last();
  EXPECT_EQ(report.job(), kJob);
  EXPECT_EQ(report.generation(), 1);
  ASSERT_EQ(report.ranks_size(), 2);
  for (const auto& rank : report.ranks()) {
    EXPECT_EQ(rank.step(), 20);
    EXPECT_EQ(rank.phase(), kPhaseDone);
    EXPECT_DOUBLE_EQ(rank.metrics().at("loss"), 1.0 / 20);
  }
  // Rank 1 was started only once rank 0 had told its address.
  for (const Request& each : coordinator_.training().reports()) {
    EXPECT_TRUE(each.ranks_size() < 2 || each.state() != Request::AGENT_STATE_RUNNING ||
                each.rendezvous() == "127.0.0.1:4242");
  }
  // The same generation is not started again.
  const size_t before = coordinator_.training().reports().size();
  ASSERT_TRUE(WaitFor([&] { return coordinator_.training().reports().size() > before + 3; }));
  EXPECT_EQ(last().state(), Request::AGENT_STATE_LEFT);
  const std::string exposed = metrics_.Expose();
  EXPECT_THAT(exposed, AllOf(HasSubstr("d2g_gang_rank_starts_total 2"),
                             HasSubstr("d2g_gang_rank_exits_total{result=\"finished\"} 2"),
                             HasSubstr("d2g_gang_steps_total 20\n"),
                             // No series stays that a living rank could be read from.
                             Not(HasSubstr("d2g_rank_"))));
}

TEST_F(GangAgentTest, RanksHaveFiguresWhileTheyAreThere) {
  coordinator_.training().SetAnswer(RunAnswer("steps=100000"));
  StartAgent();
  ASSERT_TRUE(WaitForSteps(1, 3));
  const auto exposes = [&](const std::string& text) {
    return WaitFor([&] { return metrics_.Expose().find(text) != std::string::npos; });
  };
  for (const char* rank : {"0", "1"}) {
    const std::string label = absl::StrCat("rank=\"", rank, "\"");
    EXPECT_TRUE(exposes(absl::StrCat("d2g_rank_step{", label, "} ")));
    EXPECT_TRUE(exposes(absl::StrCat("d2g_rank_loss{", label, "} ")));
    EXPECT_TRUE(exposes(absl::StrCat("d2g_rank_phase{phase=\"step\",", label, "} 1")));
  }
  // The next generation has one rank less; rank 1's series go, and none is blanked.
  Response answer = RunAnswer("steps=100000", 2);
  answer.mutable_assignment()->set_world_size(1);
  answer.mutable_assignment()->set_rank_count(1);
  coordinator_.training().SetAnswer(answer);
  ASSERT_TRUE(WaitFor([&] {
    return last().generation() == 2 && last().ranks_size() == 1 && last().ranks(0).step() >= 3;
  }));
  EXPECT_TRUE(exposes("d2g_rank_loss{rank=\"0\"} "));
  EXPECT_THAT(metrics_.Expose(), AllOf(Not(HasSubstr("rank=\"1\"")), Not(HasSubstr("Nan"))));
  Finish();
  EXPECT_THAT(metrics_.Expose(), Not(HasSubstr("d2g_rank_")));
}

TEST_F(GangAgentTest, CountsTheStepsDoneFromTheCheckpointOn) {
  // The fake ranks count from 1: what they report up to the checkpoint was done by others.
  Response answer = RunAnswer("steps=20");
  answer.mutable_assignment()->mutable_work()->mutable_resume()->set_step(15);
  coordinator_.training().SetAnswer(answer);
  StartAgent();
  ASSERT_TRUE(WaitForState(Request::AGENT_STATE_LEFT));
  EXPECT_THAT(metrics_.Expose(), HasSubstr("d2g_gang_steps_total 5\n"));
}

TEST_F(GangAgentTest, ARankElsewhereWaitsForTheAddress) {
  Response answer = RunAnswer("steps=100000");
  answer.mutable_assignment()->set_first_rank(2);
  answer.mutable_assignment()->set_world_size(4);
  coordinator_.training().SetAnswer(answer);
  StartAgent();
  ASSERT_TRUE(WaitForState(Request::AGENT_STATE_RUNNING));
  EXPECT_EQ(last().ranks_size(), 0);
  answer.mutable_assignment()->set_rendezvous("127.0.0.1:4242");
  coordinator_.training().SetAnswer(answer);
  ASSERT_TRUE(WaitForSteps(1, 3));
  EXPECT_EQ(last().ranks(0).rank(), 2);
  EXPECT_EQ(last().ranks(1).rank(), 3);
}

TEST_F(GangAgentTest, ADeadRankBreaksTheGeneration) {
  coordinator_.training().SetAnswer(RunAnswer("die=1@10"));
  StartAgent();
  ASSERT_TRUE(WaitForState(Request::AGENT_STATE_BROKEN));
  EXPECT_THAT(last().error(), AllOf(HasSubstr("rank 1"), HasSubstr("exit code 1"),
                                    HasSubstr("rank 1 cannot go on: out of luck")));
  // The next generation starts from scratch.
  coordinator_.training().SetAnswer(RunAnswer("steps=5", 2));
  ASSERT_TRUE(WaitFor(
      [&] { return last().generation() == 2 && last().state() == Request::AGENT_STATE_LEFT; }));
}

TEST_F(GangAgentTest, LongLastWordsInAnyScriptReachTheCoordinator) {
  coordinator_.training().SetAnswer(RunAnswer("sigh=1@10"));
  StartAgent();
  // The coordinator takes no heartbeat with a string that is not UTF-8.
  ASSERT_TRUE(WaitForState(Request::AGENT_STATE_BROKEN));
  EXPECT_THAT(last().error(),
              AllOf(HasSubstr("exit code 1"), HasSubstr("\xe2\x82\xac..."), HasSubstr("caf?")));
  EXPECT_LE(last().error().size(), common::kMaxFailureBytes);
  coordinator_.training().SetAnswer(RunAnswer("steps=5", 2));
  ASSERT_TRUE(WaitFor(
      [&] { return last().generation() == 2 && last().state() == Request::AGENT_STATE_LEFT; }));
}

TEST_F(GangAgentTest, ItsOwnLastWordsComeFirst) {
  coordinator_.training().SetAnswer(RunAnswer("fail=1@10@1"));
  StartAgent();
  ASSERT_TRUE(WaitForState(Request::AGENT_STATE_BROKEN));
  EXPECT_EQ(last().error(), "rank 1 in step 10: ends with 1 (exit code 1)");
  EXPECT_EQ(last().failure(), Request::FAILURE_UNSPECIFIED);
}

TEST_F(GangAgentTest, BadInputAndDivergenceAreToldAsSuch) {
  coordinator_.training().SetAnswer(RunAnswer("fail=1@10@3"));
  StartAgent();
  ASSERT_TRUE(WaitForState(Request::AGENT_STATE_BROKEN));
  EXPECT_EQ(last().failure(), Request::FAILURE_BAD_INPUT);
  coordinator_.training().SetAnswer(RunAnswer("fail=0@10@76", 2));
  ASSERT_TRUE(WaitFor(
      [&] { return last().generation() == 2 && last().state() == Request::AGENT_STATE_BROKEN; }));
  EXPECT_EQ(last().failure(), Request::FAILURE_NOT_FINITE);
  EXPECT_EQ(last().failed_step(), 10);
}

TEST_F(GangAgentTest, TheReasonIsThatOfTheRankThatWasLost) {
  // Rank 1 notices the loss of rank 0 before rank 0 has ended.
  coordinator_.training().SetAnswer(RunAnswer("fail=1@10@77,late=0@10@1"));
  options_.ranks.cause_wait = absl::Minutes(1);
  StartAgent();
  ASSERT_TRUE(WaitForState(Request::AGENT_STATE_BROKEN));
  EXPECT_EQ(last().error(), "rank 0 in step 10: ends with 1 (exit code 1)");
  EXPECT_EQ(last().failure(), Request::FAILURE_UNSPECIFIED);
}

TEST_F(GangAgentTest, WithoutABetterReasonTheLossOfAPeerIsTold) {
  coordinator_.training().SetAnswer(RunAnswer("fail=1@10@77"));
  options_.ranks.cause_wait = absl::Milliseconds(300);
  StartAgent();
  ASSERT_TRUE(WaitForState(Request::AGENT_STATE_BROKEN));
  EXPECT_EQ(last().error(), "rank 1 in step 10: ends with 77 (exit code 77)");
  EXPECT_EQ(last().failure(), Request::FAILURE_PEER_LOST);
}

TEST_F(GangAgentTest, ARankThatEndsBeforeItLoadsAnythingDidNotStart) {
  coordinator_.training().SetAnswer(RunAnswer("unready=1"));
  StartAgent();
  ASSERT_TRUE(WaitForState(Request::AGENT_STATE_BROKEN));
  EXPECT_EQ(last().failure(), Request::FAILURE_NOT_STARTED);
  EXPECT_THAT(last().error(),
              AllOf(HasSubstr("rank 1 died with exit code 1"), HasSubstr("shared libraries")));
}

TEST_F(GangAgentTest, ARankThatCannotReachRankZeroIsNotAtFault) {
  coordinator_.training().SetAnswer(RunAnswer("unmet=1"));
  options_.ranks.cause_wait = absl::Milliseconds(300);
  StartAgent();
  ASSERT_TRUE(WaitForState(Request::AGENT_STATE_BROKEN));
  EXPECT_EQ(last().failure(), Request::FAILURE_RANK0_UNREACHABLE);
  EXPECT_THAT(last().error(), HasSubstr("rank 0 cannot be reached"));
}

TEST_F(GangAgentTest, NamesTheSignalOfADeadRank) {
  coordinator_.training().SetAnswer(RunAnswer("abort=0@4"));
  StartAgent();
  ASSERT_TRUE(WaitForState(Request::AGENT_STATE_BROKEN));
  EXPECT_THAT(last().error(), AllOf(HasSubstr("rank 0"), HasSubstr("signal 6")));
}

// Long for ranks that are starved of a core, short of what fake_rank spends where it lasts.
constexpr absl::Duration kHang = absl::Milliseconds(2500);

TEST_F(GangAgentTest, AHungRankBreaksTheGeneration) {
  options_.ranks.hang_timeout = kHang;
  coordinator_.training().SetAnswer(RunAnswer("hang=1@7"));
  StartAgent();
  ASSERT_TRUE(WaitForState(Request::AGENT_STATE_BROKEN));
  EXPECT_THAT(last().error(),
              AllOf(HasSubstr("rank 1 hung: phase step, step 6"), HasSubstr("limit 2.5s")));
}

TEST_F(GangAgentTest, WaitingForDataIsNotAHang) {
  options_.ranks.hang_timeout = kHang;
  coordinator_.training().SetAnswer(RunAnswer("wait=1@5,steps=200"));
  StartAgent();
  ASSERT_TRUE(WaitForState(Request::AGENT_STATE_LEFT));
  EXPECT_EQ(last().ranks(1).step(), 200);
}

TEST_F(GangAgentTest, ProgressWithinAStepIsNotAHang) {
  options_.ranks.hang_timeout = kHang;
  coordinator_.training().SetAnswer(RunAnswer("busy=1@5,steps=200"));
  StartAgent();
  ASSERT_TRUE(WaitForState(Request::AGENT_STATE_LEFT));
  EXPECT_EQ(last().ranks(1).step(), 200);
}

TEST_F(GangAgentTest, LeavesAfterACheckpointWhenTold) {
  coordinator_.training().SetAnswer(RunAnswer(""));
  StartAgent();
  ASSERT_TRUE(WaitForSteps(1, 3));
  coordinator_.training().SetAnswer(Answer(Response::ACTION_CHECKPOINT_AND_LEAVE));
  ASSERT_TRUE(WaitForState(Request::AGENT_STATE_LEFT));
  EXPECT_EQ(last().ranks(0).phase(), kPhaseCheckpoint);
  coordinator_.training().SetAnswer(Answer(Response::ACTION_IDLE));
  ASSERT_TRUE(WaitForState(Request::AGENT_STATE_IDLE));
  EXPECT_THAT(metrics_.Expose(), HasSubstr("d2g_gang_rank_exits_total{result=\"stopped\"} 2"));
}

TEST_F(GangAgentTest, RanksThatStillLoadLeaveAtOnce) {
  coordinator_.training().SetAnswer(RunAnswer("load"));
  StartAgent();
  ASSERT_TRUE(WaitFor([&] {
    const Request report = last();
    return report.ranks_size() == 2 && report.ranks(0).phase() == kPhaseLoad &&
           report.ranks(1).phase() == kPhaseLoad;
  }));
  coordinator_.training().SetAnswer(Answer(Response::ACTION_CHECKPOINT_AND_LEAVE));
  ASSERT_TRUE(WaitForState(Request::AGENT_STATE_LEFT));
  EXPECT_THAT(metrics_.Expose(), HasSubstr("d2g_gang_rank_exits_total{result=\"stopped\"} 2"));
}

TEST_F(GangAgentTest, RanksThatWillNotLeaveAreKilled) {
  options_.ranks.leave_timeout = absl::Milliseconds(300);
  coordinator_.training().SetAnswer(RunAnswer("stubborn"));
  StartAgent();
  ASSERT_TRUE(WaitForSteps(1, 3));
  coordinator_.training().SetAnswer(Answer(Response::ACTION_CHECKPOINT_AND_LEAVE));
  ASSERT_TRUE(WaitForState(Request::AGENT_STATE_BROKEN));
  EXPECT_THAT(last().error(), HasSubstr("2 of 2 ranks did not leave within 300ms"));
}

TEST_F(GangAgentTest, IdleKillsAndAnotherGenerationReplaces) {
  coordinator_.training().SetAnswer(RunAnswer("stubborn"));
  StartAgent();
  ASSERT_TRUE(WaitForSteps(1, 3));
  coordinator_.training().SetAnswer(RunAnswer("", 2));
  ASSERT_TRUE(WaitForSteps(2, 3));
  coordinator_.training().SetAnswer(Answer(Response::ACTION_IDLE));
  ASSERT_TRUE(WaitForState(Request::AGENT_STATE_IDLE));
  EXPECT_EQ(last().ranks_size(), 0);
}

TEST_F(GangAgentTest, RanksOutliveTheCoordinatorAndAreAdopted) {
  coordinator_.training().SetAnswer(RunAnswer(""));
  StartAgent();
  ASSERT_TRUE(WaitForSteps(1, 3));
  const int64_t step = last().ranks(0).step();
  coordinator_.Stop();
  coordinator_.training().Forget();
  const std::string started = "d2g_gang_rank_starts_total 2";
  ASSERT_TRUE(WaitFor([&] {
    return metrics_.Expose().find("d2g_gang_heartbeats_total{result=\"error\"} 0") ==
           std::string::npos;
  }));
  coordinator_.Start();
  ASSERT_TRUE(WaitFor([&] { return coordinator_.training().joins().size() == 2; }));
  EXPECT_EQ(coordinator_.training().joins()[1].agent(), "agent-1");
  ASSERT_TRUE(WaitForSteps(1, step + 5));
  EXPECT_EQ(last().state(), Request::AGENT_STATE_RUNNING);
  EXPECT_EQ(last().rendezvous(), "127.0.0.1:4242");
  EXPECT_THAT(metrics_.Expose(), HasSubstr(started));
}

TEST_F(GangAgentTest, DrainingChecksPointsAndLeaves) {
  coordinator_.training().SetAnswer(RunAnswer(""));
  StartAgent();
  ASSERT_TRUE(WaitForSteps(1, 3));
  Finish();
  EXPECT_TRUE(left_work_);
  EXPECT_EQ(last().state(), Request::AGENT_STATE_DRAINING);
  EXPECT_EQ(last().ranks_size(), 0);
  EXPECT_EQ(last().generation(), 1);
  EXPECT_THAT(metrics_.Expose(), HasSubstr("d2g_gang_rank_exits_total{result=\"stopped\"} 2"));
}

TEST_F(GangAgentTest, NoWorkIsLeftWhereNoneRan) {
  coordinator_.training().SetAnswer(Answer(Response::ACTION_IDLE));
  StartAgent();
  ASSERT_TRUE(WaitForState(Request::AGENT_STATE_IDLE));
  Finish();
  EXPECT_FALSE(left_work_);
}

TEST_F(GangAgentTest, NoWorkIsLeftWhereTrainingWasDone) {
  coordinator_.training().SetAnswer(RunAnswer("steps=5"));
  StartAgent();
  ASSERT_TRUE(WaitForState(Request::AGENT_STATE_LEFT));
  Finish();
  EXPECT_FALSE(left_work_);
}

TEST_F(GangAgentTest, WorkIsLeftByRanksThatStillLoad) {
  coordinator_.training().SetAnswer(RunAnswer("load"));
  StartAgent();
  ASSERT_TRUE(WaitForState(Request::AGENT_STATE_RUNNING));
  Finish();
  EXPECT_TRUE(left_work_);
}

TEST_F(GangAgentTest, DrainsWithoutACoordinator) {
  coordinator_.training().SetAnswer(RunAnswer(""));
  StartAgent();
  ASSERT_TRUE(WaitForSteps(1, 3));
  coordinator_.Stop();
  const absl::Time start = absl::Now();
  Finish();
  EXPECT_LT(absl::Now() - start, absl::Seconds(15));
  EXPECT_THAT(metrics_.Expose(), HasSubstr("d2g_gang_rank_exits_total{result=\"stopped\"} 2"));
}

TEST_F(GangAgentTest, ARankThatCannotStartBreaksTheGeneration) {
  options_.ranks.rank_command = {"/no/such/rank"};
  coordinator_.training().SetAnswer(RunAnswer(""));
  StartAgent();
  ASSERT_TRUE(WaitForState(Request::AGENT_STATE_BROKEN));
  EXPECT_THAT(last().error(), AllOf(HasSubstr("rank 0 did not start"), HasSubstr("/no/such/rank")));
  EXPECT_EQ(last().failure(), Request::FAILURE_NOT_STARTED);
}

TEST(RankFigureNameTest, IsAPrometheusName) {
  EXPECT_EQ(RankFigureName("loss"), "d2g_rank_loss");
  EXPECT_EQ(RankFigureName("loss/g-1"), "d2g_rank_loss_g_1");
}

}  // namespace
}  // namespace d2g::gang

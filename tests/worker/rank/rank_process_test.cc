// Real d2g-rank processes with Gloo between them, against services in this process.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "model/folder/model_folder.h"
#include "model/weights/safetensors.h"
#include "services/common/clock.h"
#include "services/common/file_io.h"
#include "services/common/program.h"
#include "services/common/prompts.h"
#include "services/dataset/epoch_plan.h"
#include "services/dataset/prompt_order.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/torch/tiny_teacher.h"
#include "tests/testing/wait.h"
#include "tests/worker/rank/fake_cluster.h"
#include "tests/worker/rank/rank_process.h"
#include "tests/worker/rank/rank_process_fixture.h"
#include "worker/gang/rank_channel.h"
#include "worker/gang/rank_group.h"
#include "worker/rank/checkpoint.h"

namespace d2g::rank {
namespace {

namespace fs = std::filesystem;
using ::d2g::testing::TempDir;
using ::d2g::testing::WaitFor;
using nlohmann::json;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Key;

TEST_F(RankProcessTest, TwoRanksConsumeHalfEachAndCommit) {
  UseOutput("out");
  const auto ranks = StartGang(1, 2);
  ExpectExit(ranks, 0);

  const auto checkpoints = cluster_->coordinator.checkpoints();
  ASSERT_EQ(checkpoints.size(), 3u);
  EXPECT_EQ(checkpoints[0].step(), 5);
  EXPECT_EQ(checkpoints[2].step(), 14);
  EXPECT_FALSE(fs::exists(checkpoints[0].path()));  // The coordinator let it go.
  ASSERT_OK_AND_ASSIGN(const LoadedCheckpoint last,
                       ReadCheckpoint(checkpoints[2].path(), checkpoints[2].manifest_digest()));
  EXPECT_EQ(last.state.step, 14);
  EXPECT_EQ(last.state.cursor, (DataCursor{0, 14}));
  EXPECT_EQ(last.state.samples, 14 * kBatch);
  EXPECT_EQ(last.state.t0, 999);
  EXPECT_EQ(last.state.prediction_type, "v_prediction");
  for (const char* file : {"generator", "ema", "discriminator", "optimizer_g", "optimizer_d"}) {
    EXPECT_THAT(last.tensors, Contains(Key(file)));
  }

  const auto first = Audit(1, 0);
  const auto second = Audit(1, 1);
  for (int64_t step = 1; step <= 14; ++step) {
    std::vector<int64_t> both = first.at(step);
    EXPECT_EQ(both.size(), static_cast<size_t>(kBatch / 2));
    both.insert(both.end(), second.at(step).begin(), second.at(step).end());
    EXPECT_EQ(both, Planned(step - 1));
  }

  for (const auto& rank : ranks) {
    EXPECT_EQ(rank->step(), 14);
    EXPECT_THAT(rank->phases(),
                ::testing::IsSupersetOf({"load", "data_wait", "step", "checkpoint", "done"}));
    const auto figures = rank->metrics().at(14);
    for (const char* name :
         {"loss", "loss_regression", "loss_g_adv", "loss_d", "d_accuracy", "grad_norm_g",
          "grad_norm_d", "step_seconds", "data_wait_seconds_total", "step_seconds_total",
          "samples_total", "skipped_total", "allreduce_seconds_total", "checkpoint_seconds",
          "learning_rate", "epoch"}) {
      EXPECT_THAT(figures, Contains(Key(name)));
    }
    // The writer is rank 0's.
    EXPECT_EQ(figures.count("uncommitted_steps"), rank == ranks[0] ? 1u : 0u);
    EXPECT_EQ(figures.at("samples_total"), 14 * kBatch);
    EXPECT_EQ(figures.at("skipped_total"), 0);
  }
  // A checkpoint's report does not hide the losses.
  EXPECT_THAT(ranks[0]->metrics().at(5), Contains(Key("loss")));
  // All ranks show the same reduced losses.
  EXPECT_EQ(ranks[0]->metrics().at(14).at("loss"), ranks[1]->metrics().at(14).at("loss"));
}

TEST_F(RankProcessTest, KilledGangResumesToTheSameBits) {
  TrainToTheEnd("whole", 2);
  const std::map<std::string, std::string> expected = FinalDigests();

  ForgetCheckpoints();
  UseOutput("killed");
  // A step takes long enough to be killed in: reads are slow.
  for (const auto& shard : cluster_->shards) shard->SetDelay(absl::Milliseconds(100));
  {
    const auto ranks = StartGang(1, 2);
    ASSERT_TRUE(WaitFor([&] { return !cluster_->coordinator.checkpoints().empty(); }, kLong));
    ranks[1]->Signal(SIGKILL);
    EXPECT_EQ(ranks[1]->Wait(), -SIGKILL);
    // The other notices by itself that its peer is gone.
    EXPECT_EQ(ranks[0]->Wait(), gang::kExitPeerLost) << ranks[0]->Output();
    EXPECT_THAT(ranks[0]->Output(), HasSubstr("rank 0 in step"));
  }
  const int64_t resumed_at = cluster_->coordinator.checkpoints().back().step();
  ASSERT_LT(resumed_at, 14);
  // Complete, but the coordinator never heard of it.
  const std::string lost = dir_.File("killed/checkpoints/step-13-g1-aaaaaaaa");
  fs::copy(cluster_->coordinator.checkpoints().back().path(), lost, fs::copy_options::recursive);
  ExpectExit(StartGang(2, 2), 0);
  EXPECT_EQ(FinalDigests(), expected);
  EXPECT_EQ(Audit(2, 0).begin()->first, resumed_at + 1);
  EXPECT_FALSE(fs::exists(lost));
  EXPECT_TRUE(fs::exists(cluster_->coordinator.checkpoints().back().path()));
}

TEST_F(RankProcessTest, StopLeavesAfterACheckpointAndResumesToTheSameBits) {
  TrainToTheEnd("whole", 2);
  const std::map<std::string, std::string> expected = FinalDigests();

  ForgetCheckpoints();
  UseOutput("stopped");
  for (const auto& shard : cluster_->shards) shard->SetDelay(absl::Milliseconds(100));
  {
    const auto ranks = StartGang(1, 2);
    ASSERT_TRUE(WaitFor([&] { return ranks[0]->step() >= 1; }, kLong));
    // One rank is enough: they agree.
    ranks[1]->Signal(SIGTERM);
    ExpectExit(ranks, common::kExitStopped);
    EXPECT_EQ(cluster_->coordinator.checkpoints().back().step(), ranks[0]->step());
  }
  for (const auto& shard : cluster_->shards) shard->SetDelay(absl::ZeroDuration());
  ExpectExit(StartGang(2, 2), 0);
  EXPECT_EQ(FinalDigests(), expected);
}

TEST_F(RankProcessTest, AnotherWorldSizeSeesTheSameSamples) {
  UseSteps(6);
  TrainToTheEnd("two", 2);
  const auto two = cluster_->coordinator.checkpoints().back();
  ForgetCheckpoints();
  TrainToTheEnd("one", 1);
  const auto one = cluster_->coordinator.checkpoints().back();
  for (int64_t step = 1; step <= 6; ++step) EXPECT_EQ(Audit(1, 0).at(step), Planned(step - 1));
  ASSERT_OK_AND_ASSIGN(const auto of_two, ReadCheckpoint(two.path(), two.manifest_digest()));
  ASSERT_OK_AND_ASSIGN(const auto of_one, ReadCheckpoint(one.path(), one.manifest_digest()));
  for (const auto& [name, tensor] : of_one.tensors.at("ema")) {
    EXPECT_TRUE(at::allclose(tensor, of_two.tensors.at("ema").at(name), 1e-3, 1e-4)) << name;
  }
}

TEST_F(RankProcessTest, TrainingOutlivesTheCoordinator) {
  UseSteps(30);
  train().set_checkpoint_every(8);
  UseOutput("out");
  const auto ranks = StartGang(1, 2);
  ASSERT_TRUE(WaitFor([&] { return ranks[0]->step() >= 1; }, kLong));
  cluster_->coordinator.SetDown(true);
  // The commit of step 8 waits; steps go on beyond the next checkpoint.
  ASSERT_TRUE(WaitFor([&] { return ranks[0]->step() >= 20; }, kLong));
  cluster_->coordinator.SetDown(false);
  ExpectExit(ranks, 0);
  const auto checkpoints = cluster_->coordinator.checkpoints();
  EXPECT_EQ(checkpoints.front().step(), 8);
  EXPECT_EQ(checkpoints.back().step(), 30);
}

TEST_F(RankProcessTest, WaitingForTheCoordinatorAtTheEndIsNotAHang) {
  UseSteps(6);
  train().set_checkpoint_every(4);
  cluster_->coordinator.SetCommitsDown(true);
  gang::RankGroupOptions options;
  options.rank_command = {RankBinary()};
  options.work_dir = dir_.path();
  // Stands still while the ranks come this far, however slow the machine.
  common::FakeClock clock;
  options.clock = &clock;
  gang::RankGroup group(Launch(1, 2), options);
  const auto all_wait = [&] {
    const auto ranks = group.ranks();
    return ranks.size() == 2 && std::all_of(ranks.begin(), ranks.end(), [](const auto& rank) {
             return rank.step() == 6 && rank.phase() == gang::kPhaseCommitWait;
           });
  };
  const auto ends = [&] { return group.Poll() != gang::RankGroup::State::kRunning; };
  ASSERT_TRUE(WaitFor([&] { return ends() || all_wait(); }, kLong));
  clock.AdvanceTime(2 * options.hang_timeout);
  EXPECT_FALSE(ends()) << group.error();
  cluster_->coordinator.SetCommitsDown(false);
  ASSERT_TRUE(WaitFor(ends, kLong));
  EXPECT_EQ(group.state(), gang::RankGroup::State::kLeft) << group.error();
  EXPECT_EQ(cluster_->coordinator.checkpoints().back().step(), 6);
}

TEST_F(RankProcessTest, SlowReadsCostLessThanOneInAHundred) {
  UseSteps(40);
  train().set_checkpoint_every(1000);
  for (const auto& shard : cluster_->shards) shard->SetDelay(absl::Milliseconds(20));
  UseOutput("out");
  const auto ranks = StartGang(1, 2);
  ExpectExit(ranks, 0);
  for (const auto& rank : ranks) {
    // From the second step on: the very first batch has nothing to hide behind.
    const auto begin = rank->metrics().at(2);
    const auto end = rank->metrics().at(40);
    const auto spent = [&](const char* name) { return end.at(name) - begin.at(name); };
    EXPECT_LT(spent("data_wait_seconds_total"), 0.01 * spent("step_seconds_total"));
  }
}

TEST_F(RankProcessTest, ShardOutageDelaysAndLosesNothing) {
  UseOutput("out");
  cluster_->shards[1]->SetDown(true);
  const auto ranks = StartGang(1, 2);
  ASSERT_TRUE(WaitFor([&] { return ranks[1]->phases().count("data_wait") > 0; }, kLong));
  EXPECT_EQ(ranks[0]->step(), 0);
  cluster_->shards[1]->SetDown(false);
  ExpectExit(ranks, 0);
  EXPECT_EQ(ranks[0]->metrics().at(14).at("skipped_total"), 0);
}

TEST_F(RankProcessTest, WaitsForTheSnapshotOfAnEpochAndIsHeardMeanwhile) {
  // 56 training triples: seven batches an epoch.
  cluster_ = std::make_unique<FakeCluster>(work_.recipe(), Prompts(), /*sealed=*/64);
  *work_.mutable_shards() = cluster_->coordinator.dataset().shards();
  UseOutput("out");
  cluster_->coordinator.SetLastEpoch(0);
  const auto wait_for_snapshot = [&](const auto& ranks) {
    const int64_t refused = cluster_->coordinator.snapshots_refused();
    return WaitFor(
        [&] {
          return ranks[0]->step() == 7 && ranks[0]->phase() == gang::kPhaseDataWait &&
                 cluster_->coordinator.snapshots_refused() > refused + 2;
        },
        kLong);
  };
  {
    const auto ranks = StartGang(1, 2);
    ASSERT_TRUE(wait_for_snapshot(ranks)) << ranks[0]->Output();
    // The other one, which waits too, leaves with it.
    ranks[1]->Signal(SIGTERM);
    ExpectExit(ranks, common::kExitStopped);
    EXPECT_EQ(cluster_->coordinator.checkpoints().back().step(), 7);
  }
  const auto ranks = StartGang(2, 2);
  ASSERT_TRUE(wait_for_snapshot(ranks)) << ranks[0]->Output();
  cluster_->coordinator.SetLastEpoch(1);
  ExpectExit(ranks, 0);
  EXPECT_EQ(cluster_->coordinator.checkpoints().back().step(), 14);
}

TEST_F(RankProcessTest, NamesTheTriplesThatAreNotFinite) {
  const auto prompt_of = [](int64_t index) { return dataset::PromptIndexOf(5, index, 12) % 10; };
  const std::vector<int64_t> batch = Planned(0);
  const int64_t bad = prompt_of(batch[0]);
  // The tiny teacher's token of a digit that ends a word.
  SpoilTeacher(256 + '0' + bad);
  UseSteps(1);
  UseOutput("out");
  const auto ranks = StartGang(1, 2);
  ExpectExit(ranks, 0);
  const std::string output = ranks[0]->Output() + ranks[1]->Output();
  EXPECT_THAT(output, HasSubstr("G's gradient is not finite: the step changed nothing step=1"));
  size_t named = 0;
  for (const int64_t index : batch) {
    const bool logged =
        output.find(absl::StrCat("a triple's numbers are not finite step=1 index=", index,
                                 " term=prediction")) != std::string::npos;
    EXPECT_EQ(logged, prompt_of(index) == bad) << index << "\n" << output;
    named += logged;
  }
  EXPECT_LT(named, batch.size());
}

TEST_F(RankProcessTest, ADiscriminatorThatIsNotFiniteSkipsTheWholeStep) {
  SpoilTeacher(256 + '0' + dataset::PromptIndexOf(5, Planned(0)[0], 12) % 10);
  UseSteps(1);
  train().mutable_gan()->set_start_step(0);
  train().mutable_gan()->set_discriminator_start_step(0);
  UseOutput("out");
  const auto ranks = StartGang(1, 2);
  ExpectExit(ranks, 0);
  for (const auto& rank : ranks) {
    EXPECT_THAT(rank->Output(),
                HasSubstr("D's gradient is not finite: the step changed nothing step=1"));
    EXPECT_THAT(rank->Output(), ::testing::Not(HasSubstr("G's gradient")));
  }
}

}  // namespace
}  // namespace d2g::rank

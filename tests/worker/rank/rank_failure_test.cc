// How real d2g-rank processes end when they cannot go on: what they say, and with which exit code.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "services/common/file_io.h"
#include "tests/worker/rank/rank_process_fixture.h"
#include "worker/gang/rank_channel.h"

namespace d2g::rank {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

TEST_F(RankProcessTest, WhatNoRankCanDoIsBadInput) {
  // A folder with the names of a network's files in it.
  train().mutable_regression()->set_features_weight(1);
  train().mutable_regression()->set_features_path(dir_.File("teacher/text_encoder"));
  auto ranks = StartGang(1, 1);
  ExpectExit(ranks, common::kExitBadInput);
  EXPECT_THAT(ranks[0]->Output(), HasSubstr("d2g-rank: " + dir_.File("teacher/text_encoder")));
  // A file that the folder lacks.
  fs::create_directory(dir_.File("features"));
  train().mutable_regression()->set_features_path(dir_.File("features"));
  ranks = StartGang(2, 1);
  ExpectExit(ranks, common::kExitBadInput);
  EXPECT_THAT(ranks[0]->Output(), HasSubstr("features/config.json: cannot be opened"));
  // The whole folder: this machine may have lost a mount.
  fs::remove(dir_.File("features"));
  ranks = StartGang(3, 1);
  ExpectExit(ranks, common::kExitFailure);
}

TEST_F(RankProcessTest, ASpecThatIsNotNormalAndCannotBeMadeSoIsBadInput) {
  // As from a coordinator with other limits.
  train().mutable_gan()->set_mismatch_weight(0.6);
  const auto ranks = StartGang(1, 1);
  ExpectExit(ranks, common::kExitBadInput);
  EXPECT_THAT(ranks[0]->Output(), HasSubstr("train.gan.mismatch_weight: 0.6 is not from 0 to 0.4"));
}

TEST_F(RankProcessTest, AnOutputFolderThatCannotBeMadeIsBadInputUntilACheckpointIsThere) {
  UseSteps(5);
  TrainToTheEnd("out", 1);
  UseSteps(10);
  work_.mutable_spec()->set_output_dir("/proc/out");
  // Rank 0 looks at the folder before it waits for the others.
  RankProcess later(dir_.path(), Launch(2, 1), 0);
  EXPECT_EQ(later.Wait(), common::kExitFailure) << later.Output();
  EXPECT_THAT(later.Output(), HasSubstr("/proc/out"));
  ForgetCheckpoints();
  RankProcess first(dir_.path(), Launch(1, 1), 0);
  EXPECT_EQ(first.Wait(), common::kExitBadInput) << first.Output();
  EXPECT_THAT(first.Output(), HasSubstr("d2g-rank: output_dir: /proc/out"));
}

TEST_F(RankProcessTest, ARankThatCannotReachRankZeroSaysSoBeforeItLoads) {
  gang::RankLaunch launch = Launch(1, 2);
  launch.assignment.set_rendezvous("not an address");
  RankProcess rank(dir_.path(), launch, 1);
  EXPECT_EQ(rank.Wait(), common::kExitFailure) << "no fault of the job: " << rank.Output();
  EXPECT_THAT(rank.Output(), HasSubstr("d2g-rank: rendezvous address"));
  EXPECT_TRUE(rank.phases().empty());
}

TEST_F(RankProcessTest, RefusesAnotherTeacher) {
  work_.mutable_recipe()->set_teacher_digest("xxh3-128:00000000000000000000000000000000");
  const auto ranks = StartGang(1, 1);
  // Not 3, which fails the job: another machine may see the right folder.
  ExpectExit(ranks, common::kExitFailure);
  EXPECT_THAT(ranks[0]->Output(), HasSubstr("the dataset was made with xxh3-128:0000"));
}

TEST_F(RankProcessTest, RefusesADamagedCheckpoint) {
  UseSteps(5);
  TrainToTheEnd("out", 1);
  UseSteps(10);
  const std::string file =
      cluster_->coordinator.checkpoints().back().path() + "/generator.safetensors";
  std::string bytes = *common::ReadFile(file);
  bytes[bytes.size() / 2] ^= 1;
  ASSERT_TRUE(common::WriteFileAtomically(file, bytes).ok());
  const auto ranks = StartGang(2, 1);
  ExpectExit(ranks, 1);
  EXPECT_THAT(ranks[0]->Output(), HasSubstr(file + ": XXH3-128 is"));
}

TEST_F(RankProcessTest, StepsThatAreNotFiniteFailTheRunBeforeACheckpoint) {
  SpoilTeacher(-1);
  train().set_checkpoint_every(2);
  UseOutput("out");
  const auto ranks = StartGang(1, 2);
  for (const auto& rank : ranks) {
    EXPECT_EQ(rank->Wait(), gang::kExitNotFinite);
    EXPECT_THAT(rank->Output(), HasSubstr("gradients were not finite in 5 steps in a row"));
  }
  EXPECT_TRUE(cluster_->coordinator.checkpoints().empty());
  EXPECT_TRUE(!fs::exists(dir_.File("out/checkpoints")) ||
              fs::is_empty(dir_.File("out/checkpoints")));
}

}  // namespace
}  // namespace d2g::rank

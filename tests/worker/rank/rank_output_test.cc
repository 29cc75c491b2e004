// Where a real d2g-rank writes, and where it does not.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "model/folder/model_folder.h"
#include "services/common/file_io.h"
#include "services/common/prompts.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/torch/tiny_teacher.h"
#include "tests/testing/wait.h"
#include "tests/worker/rank/fake_cluster.h"
#include "tests/worker/rank/rank_process.h"

namespace d2g::rank {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::HasSubstr;

constexpr char kPrompts[] = "a shoe\na coat\n";
constexpr int64_t kSealed = 64;

class RankOutputTest : public ::testing::Test {
 protected:
  RankOutputTest() {
    testing::WriteTinyTeacher(dir_.File("teacher"));
    work_.set_dataset("datasets/d");
    auto& recipe = *work_.mutable_recipe();
    recipe.set_teacher_digest(model::InspectModelFolder(dir_.File("teacher"))->digest);
    recipe.set_prompts_digest(common::ParsePromptList(kPrompts)->digest);
    recipe.set_prompt_count(2);
    recipe.set_latent_channels(testing::kTinyLatentChannels);
    recipe.set_latent_height(testing::kTinyLatentSide);
    recipe.set_latent_width(testing::kTinyLatentSide);
    recipe.set_storage_dtype(common::v1::DTYPE_FP16);
    recipe.set_block_size(16);
    recipe.set_holdout_every(8);
    recipe.set_shard_count(2);
    auto& spec = *work_.mutable_spec();
    spec.mutable_teacher()->set_path(dir_.File("teacher"));
    spec.set_output_dir(dir_.File("out"));
    auto& train = *spec.mutable_train();
    train.set_steps(2);
    train.set_global_batch(4);
    train.set_learning_rate(1e-3);
    train.set_clip_norm(1);
    train.set_ema_decay(0.9);
    train.set_checkpoint_every(2);
    train.set_parametrization("x0");
    train.mutable_regression()->set_pseudo_huber_weight(1);
    train.mutable_regression()->set_pseudo_huber_c(0.03);
  }

  // The only rank of a job that has no checkpoint.
  gang::RankLaunch Launch(const std::string& job) {
    cluster_ = std::make_unique<FakeCluster>(work_.recipe(), kPrompts, kSealed);
    *work_.mutable_shards() = cluster_->coordinator.dataset().shards();
    cluster_->coordinator.SetGeneration(1);
    gang::RankLaunch launch;
    launch.coordinator = cluster_->coordinator_address();
    launch.assignment.set_job(job);
    launch.assignment.set_generation(1);
    launch.assignment.set_world_size(1);
    launch.assignment.set_rank_count(1);
    *launch.assignment.mutable_work() = work_;
    return launch;
  }
  int64_t CountIn(const std::string& folder) {
    return std::distance(fs::directory_iterator(dir_.File(folder)), {});
  }

  const testing::TempDir dir_;
  coordinator::v1::TrainWork work_;
  std::unique_ptr<FakeCluster> cluster_;
};

TEST_F(RankOutputTest, AFolderOfAnotherJobIsSetAsideWhenAskedForAndElseRefused) {
  RankProcess first(dir_.path(), Launch("jobs/j"), 0);
  ASSERT_EQ(first.Wait(), 0) << first.Output();
  EXPECT_EQ(CountIn("out/checkpoints"), 1);

  RankProcess refused(dir_.path(), Launch("jobs/k"), 0);
  EXPECT_EQ(refused.Wait(), 3) << refused.Output();
  EXPECT_THAT(refused.Output(), HasSubstr("holds the output of jobs/j"));
  EXPECT_EQ(CountIn("out/checkpoints"), 1);

  work_.mutable_spec()->set_overwrite(true);
  RankProcess taken(dir_.path(), Launch("jobs/k"), 0);
  EXPECT_EQ(taken.Wait(), 0) << taken.Output();
  EXPECT_EQ(CountIn("out/replaced/j/checkpoints"), 1);
  EXPECT_EQ(CountIn("out/replaced/j/audit"), 1);
  EXPECT_EQ(CountIn("out/checkpoints"), 1) << "its own alone";
  EXPECT_EQ(json::parse(*common::ReadFile(dir_.File("out/d2g-job.json")))["job"], "jobs/k");
}

TEST_F(RankOutputTest, AFolderThatWasTakenOverMeanwhileGetsNoMoreCheckpoints) {
  work_.mutable_spec()->mutable_train()->set_steps(100'000);
  work_.mutable_spec()->mutable_train()->set_keep_checkpoints(1000);
  RankProcess rank(dir_.path(), Launch("jobs/j"), 0);
  ASSERT_TRUE(testing::WaitFor([&] { return !cluster_->coordinator.checkpoints().empty(); }, kLong))
      << rank.Output();
  ASSERT_TRUE(
      common::WriteFileAtomically(dir_.File("out/d2g-job.json"), R"({"job": "jobs/k"})").ok());
  EXPECT_EQ(rank.Wait(), 3) << rank.Output();
  EXPECT_THAT(rank.Output(), HasSubstr("holds the output of jobs/k"));
}

TEST_F(RankOutputTest, FilesThatNoJobMadeStay) {
  fs::create_directories(dir_.File("out/checkpoints"));
  ASSERT_TRUE(common::WriteFileAtomically(dir_.File("out/checkpoints/mine"), "mine").ok());
  work_.mutable_spec()->set_overwrite(true);
  RankProcess rank(dir_.path(), Launch("jobs/j"), 0);
  EXPECT_EQ(rank.Wait(), 3) << rank.Output();
  EXPECT_THAT(rank.Output(), HasSubstr(dir_.File("out/checkpoints") + " holds mine"));
  EXPECT_EQ(CountIn("out/checkpoints"), 1);
}

TEST_F(RankOutputTest, RefusesPathsOutsideItsRoots) {
  gang::RankLaunch launch = Launch("jobs/j");
  launch.paths.model_roots = {dir_.File("models")};
  launch.paths.output_roots = {dir_.File("jobs")};
  RankProcess rank(dir_.path(), launch, 0);
  // Not 3, which fails the job: another machine may have other roots.
  EXPECT_EQ(rank.Wait(), common::kExitFailure) << rank.Output();
  EXPECT_THAT(rank.Output(), HasSubstr("is not within --model-root " + dir_.File("models")));
  EXPECT_THAT(rank.Output(), HasSubstr("is not within --output-root " + dir_.File("jobs")));
  EXPECT_FALSE(fs::exists(dir_.File("out")));
}

}  // namespace
}  // namespace d2g::rank

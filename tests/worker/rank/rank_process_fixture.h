// A small training job for real d2g-rank processes, against services in the test's process.
#pragma once

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
#include "services/common/prompts.h"
#include "services/dataset/epoch_plan.h"
#include "services/dataset/prompt_order.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/torch/tiny_teacher.h"
#include "tests/testing/wait.h"
#include "tests/worker/rank/fake_cluster.h"
#include "tests/worker/rank/rank_process.h"
#include "worker/gang/rank_channel.h"
#include "worker/gang/rank_group.h"
#include "worker/rank/checkpoint.h"

namespace d2g::rank {

inline constexpr int64_t kSealed = 512;
inline constexpr int64_t kBatch = 8;

inline std::string Prompts() {
  std::string text;
  for (int i = 0; i < 12; ++i) text += absl::StrCat("shape ", i % 10, "\n");
  return text;
}

class RankProcessTest : public ::testing::Test {
 protected:
  RankProcessTest() {
    testing::WriteTinyTeacher(dir_.File("teacher"));
    work_.set_dataset("datasets/d");
    auto& recipe = *work_.mutable_recipe();
    recipe.set_teacher_digest(model::InspectModelFolder(dir_.File("teacher"))->digest);
    recipe.set_prompts_digest(common::ParsePromptList(Prompts())->digest);
    recipe.set_prompt_count(12);
    recipe.set_latent_channels(testing::kTinyLatentChannels);
    recipe.set_latent_height(testing::kTinyLatentSide);
    recipe.set_latent_width(testing::kTinyLatentSide);
    recipe.set_storage_dtype(common::v1::DTYPE_FP16);
    recipe.set_seed(5);
    recipe.set_block_size(16);
    recipe.set_holdout_every(8);
    recipe.set_shard_count(2);
    auto& spec = *work_.mutable_spec();
    spec.mutable_teacher()->set_path(dir_.File("teacher"));
    spec.set_output_dir(dir_.File("out"));
    auto& train = *spec.mutable_train();
    train.set_global_batch(kBatch);
    train.set_micro_batch(3);
    train.set_learning_rate(1e-3);
    train.set_clip_norm(1);
    train.set_ema_decay(0.9);
    train.set_checkpoint_every(5);
    train.set_seed(3);
    train.set_parametrization("x0");
    train.set_deterministic(true);
    train.mutable_regression()->set_pseudo_huber_weight(1);
    train.mutable_regression()->set_pseudo_huber_c(0.03);
    train.mutable_gan()->set_weight(0.1);
    train.mutable_gan()->set_learning_rate(1e-3);
    train.mutable_gan()->set_backbone_learning_rate(2e-4);
    train.mutable_gan()->set_mismatch_weight(0.25);
    UseSteps(14);
    cluster_ = std::make_unique<FakeCluster>(recipe, Prompts(), kSealed);
    *work_.mutable_shards() = cluster_->coordinator.dataset().shards();
  }

  // Makes the teacher's embedding of a token NaN; a negative one: of all tokens.
  void SpoilTeacher(int64_t token) {
    const std::string file = dir_.File("teacher/text_encoder/model.safetensors");
    model::TensorMap tensors = model::ReadSafetensors(file);
    at::Tensor embedding = tensors.at("text_model.embeddings.token_embedding.weight").clone();
    (token < 0 ? embedding : embedding[token]).fill_(std::numeric_limits<float>::quiet_NaN());
    tensors["text_model.embeddings.token_embedding.weight"] = embedding;
    model::WriteSafetensors(file, tensors);
    work_.mutable_recipe()->set_teacher_digest(
        model::InspectModelFolder(dir_.File("teacher"))->digest);
  }

  // D trains from step 7, G against it from step 9; a run that is shorter has neither.
  void UseSteps(int64_t steps) {
    auto& gan = *train().mutable_gan();
    train().set_steps(steps);
    gan.set_start_step(std::min<int64_t>(9, steps));
    gan.set_discriminator_start_step(std::min<int64_t>(7, steps));
    gan.set_decay_steps(std::min<int64_t>(4, steps));
  }

  common::v1::TrainSpec& train() { return *work_.mutable_spec()->mutable_train(); }

  void UseOutput(const std::string& name) { work_.mutable_spec()->set_output_dir(dir_.File(name)); }

  // A generation that resumes from the last committed checkpoint.
  gang::RankLaunch Launch(int64_t generation, int world) {
    cluster_->coordinator.SetGeneration(generation);
    gang::RankLaunch launch;
    launch.coordinator = cluster_->coordinator_address();
    launch.assignment.set_job("jobs/j");
    launch.assignment.set_generation(generation);
    launch.assignment.set_world_size(world);
    launch.assignment.set_rank_count(world);
    *launch.assignment.mutable_work() = work_;
    const auto checkpoints = cluster_->coordinator.checkpoints();
    if (!checkpoints.empty()) {
      *launch.assignment.mutable_work()->mutable_resume() = checkpoints.back();
    }
    return launch;
  }

  std::vector<std::unique_ptr<RankProcess>> StartGang(int64_t generation, int world) {
    gang::RankLaunch launch = Launch(generation, world);
    std::vector<std::unique_ptr<RankProcess>> ranks;
    for (int rank = 0; rank < world; ++rank) {
      ranks.push_back(std::make_unique<RankProcess>(dir_.path(), launch, rank));
      if (rank > 0) continue;
      EXPECT_TRUE(testing::WaitFor([&] { return !ranks[0]->rendezvous().empty(); }, kLong));
      launch.assignment.set_rendezvous(ranks[0]->rendezvous());
    }
    return ranks;
  }

  void ExpectExit(const std::vector<std::unique_ptr<RankProcess>>& ranks, int code) {
    for (const auto& rank : ranks) EXPECT_EQ(rank->Wait(), code) << rank->Output();
  }

  // A gang of fresh checkpoints trains to the end.
  void TrainToTheEnd(const std::string& output, int world) {
    UseOutput(output);
    ExpectExit(StartGang(1, world), 0);
  }

  // Digests of the tensors of the last committed checkpoint, by file.
  std::map<std::string, std::string> FinalDigests() {
    const std::string path = cluster_->coordinator.checkpoints().back().path();
    std::map<std::string, std::string> digests;
    for (const nlohmann::json& file :
         nlohmann::json::parse(*common::ReadFile(path + "/manifest.json"))["files"]) {
      if (file["name"] != "state.json") digests[file["name"]] = file["xxh3_128"];
    }
    return digests;
  }

  // A new coordinator that knows no checkpoint.
  void ForgetCheckpoints() {
    cluster_ = std::make_unique<FakeCluster>(work_.recipe(), Prompts(), kSealed);
    *work_.mutable_shards() = cluster_->coordinator.dataset().shards();
  }

  // Indices that a rank consumed, by step, the last time that it did the step.
  std::map<int64_t, std::vector<int64_t>> Audit(int64_t generation, int rank) {
    std::map<int64_t, std::vector<int64_t>> steps;
    std::ifstream file(absl::StrCat(work_.spec().output_dir(), "/audit/generation-", generation,
                                    "-rank-", rank, ".jsonl"));
    for (std::string line; std::getline(file, line);) {
      const nlohmann::json entry = nlohmann::json::parse(line);
      steps[entry["step"]] = entry["indices"].get<std::vector<int64_t>>();
    }
    return steps;
  }

  std::vector<int64_t> Planned(int64_t batch) {
    dataset::EpochPlanOptions plan;
    plan.sealed = dataset::IndexSet({{0, kSealed}});
    plan.holdout_every = 8;
    plan.seed = train().seed();
    plan.global_batch = kBatch;
    plan.prompt_of = [](int64_t index) { return dataset::PromptIndexOf(5, index, 12) % 10; };
    return dataset::EpochPlan(plan).BatchIndices(batch);
  }

  const testing::TempDir dir_;
  coordinator::v1::TrainWork work_;
  std::unique_ptr<FakeCluster> cluster_;
};

}  // namespace d2g::rank

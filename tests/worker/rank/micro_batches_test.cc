#include "worker/rank/micro_batches.h"

#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include "services/dataset/noise.h"

namespace d2g::rank {
namespace {

using distil::NegativeKind;

constexpr int64_t kSamples = 10;
constexpr int64_t kElements = 12;

RankBatch Batch() {
  RankBatch batch;
  batch.first_position = 6;
  for (int64_t row = 0; row < kSamples; ++row) {
    RankSample sample;
    sample.index = 100 + row;
    sample.prompt = row;
    sample.other_prompt = (row + 1) % kSamples;
    sample.other_noise_index = 500 + row;
    batch.samples.push_back(sample);
    batch.weight.push_back(row == 3 ? 0 : 1);
    for (int64_t i = 0; i < kElements; ++i) {
      batch.z.push_back(static_cast<float>(row * 100 + i));
      batch.x.push_back(static_cast<float>(-row * 100 - i));
    }
  }
  return batch;
}

class MicroBatchesTest : public ::testing::Test {
 protected:
  MicroBatchesTest()
      : texts_(
            [](const auto& prompts) {
              return at::full({1, 2, 3}, std::stod(prompts[0]));
            },
            {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}, 1 << 20) {
    options_.recipe.set_latent_channels(3);
    options_.recipe.set_latent_height(2);
    options_.recipe.set_latent_width(2);
    options_.recipe.set_seed(5);
  }

  TextCache texts_;
  MicroBatchOptions options_;
};

TEST_F(MicroBatchesTest, CutInOrder) {
  options_.train.set_micro_batch(4);
  const auto cut = MakeMicroBatches(Batch(), options_, false, &texts_);
  ASSERT_EQ(cut.size(), 3u);
  int64_t row = 0;
  for (const distil::MicroBatch& part : cut) {
    EXPECT_EQ(part.z.sizes().slice(1), (std::vector<int64_t>{3, 2, 2}));
    EXPECT_TRUE(part.negatives.empty());
    for (int64_t i = 0; i < part.z.size(0); ++i, ++row) {
      EXPECT_EQ(part.z[i].flatten()[5].item<float>(), row * 100 + 5);
      EXPECT_EQ(part.x[i].flatten()[5].item<float>(), -row * 100 - 5);
      EXPECT_EQ(part.weight[i].item<float>(), row == 3 ? 0 : 1);
      EXPECT_EQ(part.text[i][0][0].item<float>(), row);
    }
  }
  EXPECT_EQ(row, kSamples);
}

TEST_F(MicroBatchesTest, WholeShareWithoutALimit) {
  EXPECT_EQ(MakeMicroBatches(Batch(), options_, false, &texts_).size(), 1u);
  EXPECT_TRUE(MakeMicroBatches(RankBatch(), options_, false, &texts_).empty());
}

TEST_F(MicroBatchesTest, NegativesGoByGlobalPosition) {
  options_.train.mutable_gan()->set_mismatch_weight(0.25);
  const auto cut = MakeMicroBatches(Batch(), options_, true, &texts_);
  ASSERT_EQ(cut.size(), 1u);
  int counts[3] = {0, 0, 0};
  for (int64_t row = 0; row < kSamples; ++row) {
    const NegativeKind kind = distil::NegativeKindAt(6 + row, 0.25);
    EXPECT_EQ(cut[0].negatives[row], kind);
    ++counts[static_cast<int>(kind)];
    if (kind == NegativeKind::kOtherText) {
      EXPECT_EQ(cut[0].other_text[row][0][0].item<float>(), (row + 1) % kSamples);
    }
    if (kind == NegativeKind::kOtherNoise) {
      std::vector<float> noise(kElements);
      dataset::FillNoise(5, 500 + row, noise);
      EXPECT_TRUE(at::equal(cut[0].other_noise[row].flatten(),
                            at::from_blob(noise.data(), {kElements}, at::kFloat)));
    }
  }
  EXPECT_GT(counts[1], 0);
  EXPECT_GT(counts[2], 0);
}

TEST_F(MicroBatchesTest, WithoutAnotherPromptTheNegativeIsGenerated) {
  options_.train.mutable_gan()->set_mismatch_weight(0.5);
  RankBatch batch = Batch();
  for (RankSample& sample : batch.samples) sample.other_prompt = sample.other_noise_index = -1;
  const auto cut = MakeMicroBatches(batch, options_, true, &texts_);
  for (const NegativeKind kind : cut[0].negatives) EXPECT_EQ(kind, NegativeKind::kGenerated);
  EXPECT_FALSE(cut[0].other_text.defined());
  EXPECT_FALSE(cut[0].other_noise.defined());
}

}  // namespace
}  // namespace d2g::rank

#include "services/dataset/epoch_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <stdexcept>
#include <string>

#include "services/dataset/holdout.h"
#include "services/dataset/prompt_order.h"

namespace d2g::dataset {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

EpochPlanOptions Options() {
  EpochPlanOptions options;
  options.sealed = IndexSet({{0, 100}, {256, 300}, {512, 515}});
  options.holdout_every = 8;
  options.seed = 17;
  options.epoch = 2;
  options.global_batch = 16;
  options.prompt_of = [](int64_t index) { return PromptIndexOf(5, index, 20); };
  options.r1_every = 4;
  return options;
}

TEST(EpochPlan, IsFrozen) {
  const EpochPlan plan(Options());
  std::string text;
  for (const PlanItem& item : plan.Batch(4)) {
    text += std::to_string(item.index) + ":" + std::to_string(item.mismatch_position) + ":" +
            std::to_string(item.noise_mismatch_position) + (item.r1 ? ":r1 " : " ");
  }
  EXPECT_EQ(text,
            "261:14:2 3:8:6 268:5:10 27:6:12 51:2:9 59:10:14 44:13:0 23:9:3 282:12:4:r1 10:11:15 "
            "286:15:5 70:3:13 266:4:1 269:0:7 281:7:8 279:1:11 ");
  EXPECT_EQ(plan.Batch(4)[0].augmentation_seed, 0x4cab02a2888e37b2u);
}

TEST(EpochPlan, VisitsEachTrainingIndexAtMostOnceAndDropsOnlyTheTail) {
  const EpochPlan plan(Options());
  // 100 - 13, 44 - 6, 3 - 1 held out.
  EXPECT_EQ(plan.training_count(), 87 + 38 + 2);
  EXPECT_EQ(plan.num_batches(), 127 / 16);
  std::set<int64_t> visited;
  for (int64_t k = 0; k < plan.num_batches(); ++k) {
    for (const PlanItem& item : plan.Batch(k)) {
      EXPECT_TRUE(visited.insert(item.index).second);
      EXPECT_FALSE(IsHeldOut(item.index, 8));
      EXPECT_TRUE(Options().sealed.Contains(item.index));
    }
  }
  EXPECT_EQ(visited.size(), 7u * 16);
}

TEST(EpochPlan, EpochsAndSeedsGiveOtherOrders) {
  const std::vector<int64_t> base = EpochPlan(Options()).BatchIndices(0);
  EpochPlanOptions other_epoch = Options();
  other_epoch.epoch = 3;
  EXPECT_NE(EpochPlan(other_epoch).BatchIndices(0), base);
  EpochPlanOptions other_seed = Options();
  other_seed.seed = 18;
  EXPECT_NE(EpochPlan(other_seed).BatchIndices(0), base);
  EXPECT_EQ(EpochPlan(Options()).BatchIndices(0), base);
}

TEST(EpochPlan, NegativesAreDerangementsThatSkipEqualPrompts) {
  const EpochPlanOptions options = Options();
  const EpochPlan plan(options);
  for (int64_t k = 0; k < plan.num_batches(); ++k) {
    const std::vector<PlanItem> batch = plan.Batch(k);
    std::set<int32_t> text_sources;
    std::set<int32_t> noise_sources;
    for (int32_t j = 0; j < 16; ++j) {
      ASSERT_GE(batch[j].mismatch_position, 0);
      EXPECT_NE(options.prompt_of(batch[j].index),
                options.prompt_of(batch[batch[j].mismatch_position].index));
      EXPECT_NE(batch[j].noise_mismatch_position, j);
      text_sources.insert(batch[j].mismatch_position);
      noise_sources.insert(batch[j].noise_mismatch_position);
    }
    EXPECT_EQ(text_sources.size(), 16u);
    EXPECT_EQ(noise_sources.size(), 16u);
  }
}

TEST(EpochPlan, DerangementExistsUpToHalfOfTheBatchSharingAPrompt) {
  EpochPlanOptions options = Options();
  options.sealed = IndexSet({{0, 16}});
  options.holdout_every = 0;
  options.prompt_of = [](int64_t index) { return index < 8 ? 0 : index; };
  for (const PlanItem& item : EpochPlan(options).Batch(0)) EXPECT_GE(item.mismatch_position, 0);

  options.prompt_of = [](int64_t index) { return index < 12 ? 0 : index; };
  int without = 0;
  for (const PlanItem& item : EpochPlan(options).Batch(0)) without += item.mismatch_position < 0;
  EXPECT_EQ(without, 12 - 4);
}

TEST(EpochPlan, BatchOfOneHasNoNegatives) {
  EpochPlanOptions options = Options();
  options.global_batch = 1;
  const std::vector<PlanItem> batch = EpochPlan(options).Batch(0);
  EXPECT_EQ(batch[0].mismatch_position, -1);
  EXPECT_EQ(batch[0].noise_mismatch_position, -1);
  EXPECT_TRUE(batch[0].r1);
}

TEST(EpochPlan, OneSampleOfEachFourthBatchHasTheGradientPenalty) {
  const EpochPlan plan(Options());
  std::vector<int> counts;
  for (int64_t k = 0; k < plan.num_batches(); ++k) {
    counts.push_back(0);
    for (const PlanItem& item : plan.Batch(k)) counts.back() += item.r1;
  }
  EXPECT_THAT(counts, ElementsAre(1, 0, 0, 0, 1, 0, 0));
}

TEST(EpochPlan, AnyWorldSizeCoversTheBatchOnce) {
  for (int64_t world = 1; world <= 9; ++world) {
    for (int64_t n = 0; n <= 20; ++n) {
      int64_t end = 0;
      int64_t smallest = n;
      int64_t largest = 0;
      for (int64_t rank = 0; rank < world; ++rank) {
        const Range slice = RankSlice(world, rank, n);
        EXPECT_EQ(slice.begin, end);
        end = slice.end;
        smallest = std::min(smallest, slice.size());
        largest = std::max(largest, slice.size());
      }
      EXPECT_EQ(end, n);
      EXPECT_LE(largest - smallest, 1);
    }
  }
}

TEST(EpochPlan, EmptySnapshotHasNoBatches) {
  EpochPlanOptions options = Options();
  options.sealed = IndexSet();
  EXPECT_EQ(EpochPlan(options).num_batches(), 0);
}

TEST(EpochPlan, ErrorsNameValueAndLimit) {
  const auto error_of = [](auto change) {
    EpochPlanOptions options = Options();
    change(options);
    try {
      EpochPlan plan(options);
      plan.Batch(7);
    } catch (const std::invalid_argument& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_THAT(error_of([](auto& o) { o.global_batch = 0; }),
              HasSubstr("global_batch is 0; must be 1 to 1048576"));
  EXPECT_THAT(error_of([](auto& o) { o.epoch = -1; }), HasSubstr("epoch is -1"));
  EXPECT_THAT(error_of([](auto&) {}), HasSubstr("batch 7 of epoch 2, which has 7 batches"));
  EXPECT_THROW(RankSlice(2, 2, 5), std::invalid_argument);
}

}  // namespace
}  // namespace d2g::dataset

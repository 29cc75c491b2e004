#include "worker/rank/batch_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <thread>

#include "services/common/clock.h"
#include "services/dataset/prompt_order.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/wait.h"
#include "tests/worker/rank/fake_training_data.h"

namespace d2g::rank {
namespace {

using ::d2g::testing::StatusIs;
using ::d2g::testing::WaitFor;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class BatchReaderTest : public ::testing::Test {
 protected:
  BatchReaderTest() : data_(SmallRecipe()) { data_.SetSealed({dataset::IndexSet({{0, 128}})}); }

  // 112 training triples: 7 batches of 16 an epoch.
  BatchReaderOptions Options(int64_t batches) const {
    BatchReaderOptions options;
    options.train.set_global_batch(16);
    options.train.set_seed(9);
    options.recipe = SmallRecipe();
    options.batches = batches;
    options.prompt_class = [](int64_t prompt) { return prompt; };
    return options;
  }

  // What the plan says about batch k of an epoch.
  static std::vector<dataset::PlanItem> Planned(
      const BatchReaderOptions& options, int64_t epoch, int64_t k,
      const dataset::IndexSet& sealed = dataset::IndexSet({{0, 128}})) {
    dataset::EpochPlanOptions plan;
    plan.sealed = sealed;
    plan.holdout_every = options.recipe.holdout_every();
    plan.seed = options.train.seed();
    plan.epoch = epoch;
    plan.global_batch = options.train.global_batch();
    plan.prompt_of = [](int64_t index) { return dataset::PromptIndexOf(5, index, 10); };
    return dataset::EpochPlan(plan).Batch(k);
  }

  FakeTrainingData data_;
};

void ExpectWhole(const RankBatch& batch) {
  const common::v1::DatasetRecipe recipe = SmallRecipe();
  const int64_t elements = dataset::LatentElements(recipe);
  for (size_t row = 0; row < batch.samples.size(); ++row) {
    const int64_t index = batch.samples[row].index;
    EXPECT_EQ(batch.weight[row], 1);
    EXPECT_EQ(batch.samples[row].prompt, dataset::PromptIndexOf(5, index, 10));
    const auto row_of = [&](const std::vector<float>& numbers) {
      return std::vector<float>(numbers.begin() + row * elements,
                                numbers.begin() + (row + 1) * elements);
    };
    EXPECT_EQ(row_of(batch.x), SolutionOf(recipe, index));
    EXPECT_EQ(row_of(batch.z), NoiseOf(recipe, index));
  }
}

TEST_F(BatchReaderTest, GivesThePlanInOrderOverEpochs) {
  const BatchReaderOptions options = Options(10);
  BatchReader reader(options, &data_);
  for (int64_t i = 0; i < 10; ++i) {
    ASSERT_OK_AND_ASSIGN(const RankBatch batch, reader.Next());
    EXPECT_EQ(batch.cursor, (DataCursor{i / 7, i % 7}));
    EXPECT_EQ(batch.next, (DataCursor{i / 7, i % 7 + 1}));
    const std::vector<dataset::PlanItem> planned = Planned(options, i / 7, i % 7);
    ASSERT_EQ(batch.samples.size(), planned.size());
    for (size_t row = 0; row < planned.size(); ++row) {
      const RankSample& sample = batch.samples[row];
      EXPECT_EQ(sample.index, planned[row].index);
      EXPECT_EQ(sample.other_prompt,
                dataset::PromptIndexOf(5, planned[planned[row].mismatch_position].index, 10));
      EXPECT_EQ(sample.other_noise_index, planned[planned[row].noise_mismatch_position].index);
      EXPECT_EQ(sample.augmentation_seed, planned[row].augmentation_seed);
    }
    ExpectWhole(batch);
  }
  EXPECT_THAT(reader.Next(), StatusIs(absl::StatusCode::kOutOfRange));
}

TEST_F(BatchReaderTest, LargeLatentsAreReadInSmallerCalls) {
  common::v1::DatasetRecipe recipe = SmallRecipe();
  recipe.set_latent_channels(4);
  recipe.set_latent_height(128);
  recipe.set_latent_width(128);
  recipe.set_storage_dtype(common::v1::DTYPE_FP32);
  recipe.set_block_size(256);
  recipe.set_shard_count(1);
  ASSERT_EQ(store::IndicesPerRead(recipe), 60);
  FakeTrainingData data(recipe);
  data.SetSealed({dataset::IndexSet({{0, 128}})});
  BatchReaderOptions options = Options(1);
  options.recipe = recipe;
  options.train.set_global_batch(64);
  BatchReader reader(options, &data);
  ASSERT_OK_AND_ASSIGN(const RankBatch batch, reader.Next());
  EXPECT_EQ(batch.samples.size(), 64u);
  EXPECT_THAT(batch.skipped, IsEmpty());
  EXPECT_EQ(data.reads(), 2);
}

TEST_F(BatchReaderTest, RanksShareABatchWithoutOverlap) {
  std::vector<std::unique_ptr<BatchReader>> readers;
  for (int rank = 0; rank < 3; ++rank) {
    BatchReaderOptions options = Options(7);
    options.world_size = 3;
    options.rank = rank;
    readers.push_back(std::make_unique<BatchReader>(options, &data_));
  }
  for (int64_t k = 0; k < 7; ++k) {
    std::vector<int64_t> indices;
    for (const auto& reader : readers) {
      ASSERT_OK_AND_ASSIGN(const RankBatch batch, reader->Next());
      EXPECT_EQ(batch.first_position, static_cast<int64_t>(indices.size()));
      for (const RankSample& sample : batch.samples) indices.push_back(sample.index);
    }
    std::vector<int64_t> planned;
    for (const dataset::PlanItem& item : Planned(Options(7), 0, k)) planned.push_back(item.index);
    EXPECT_EQ(indices, planned);
  }
}

TEST_F(BatchReaderTest, GoesOnFromACursor) {
  BatchReaderOptions options = Options(2);
  options.start = {3, 6};
  BatchReader reader(options, &data_);
  ASSERT_OK_AND_ASSIGN(const RankBatch first, reader.Next());
  EXPECT_EQ(first.cursor, (DataCursor{3, 6}));
  ASSERT_OK_AND_ASSIGN(const RankBatch second, reader.Next());
  EXPECT_EQ(second.cursor, (DataCursor{4, 0}));
}

TEST_F(BatchReaderTest, CursorPastAnEpochsLastBatchIsTheNextEpoch) {
  BatchReaderOptions options = Options(1);
  options.start = {3, 7};
  BatchReader reader(options, &data_);
  ASSERT_OK_AND_ASSIGN(const RankBatch batch, reader.Next());
  EXPECT_EQ(batch.cursor, (DataCursor{4, 0}));
}

TEST_F(BatchReaderTest, BadTriplesGetNoWeightAndAreReported) {
  const std::vector<dataset::PlanItem> planned = Planned(Options(1), 0, 0);
  const int64_t damaged = planned[5].index;
  const int64_t altered = planned[7].index;
  const int64_t other_noise = planned[9].index;
  const int64_t swapped = planned[11].index;
  const int64_t infinite = planned[13].index;
  store::v1::Triple bad_x = TripleOf(SmallRecipe(), altered);
  (*bad_x.mutable_x())[3] ^= 1;
  store::v1::Triple bad_noise = TripleOf(SmallRecipe(), other_noise);
  bad_noise.set_noise_checksum(bad_noise.noise_checksum() + 1);
  std::vector<float> numbers = SolutionOf(SmallRecipe(), infinite);
  numbers[0] = INFINITY;
  data_.SetDamaged({damaged});
  data_.SetChanged(
      {{altered, bad_x},
       {other_noise, bad_noise},
       {swapped, TripleOf(SmallRecipe(), planned[0].index)},
       {infinite, *dataset::MakeTriple(infinite, 0, numbers, NoiseOf(SmallRecipe(), infinite),
                                       common::v1::DTYPE_FP16)}});
  BatchReader reader(Options(1), &data_);
  ASSERT_OK_AND_ASSIGN(const RankBatch batch, reader.Next());
  std::set<int64_t> skipped;
  for (const SkippedTriple& triple : batch.skipped) skipped.insert(triple.index);
  EXPECT_EQ(skipped, (std::set<int64_t>{damaged, altered, other_noise, swapped, infinite}));
  const int64_t elements = dataset::LatentElements(SmallRecipe());
  for (size_t row = 0; row < batch.samples.size(); ++row) {
    const bool good = skipped.count(batch.samples[row].index) == 0;
    EXPECT_EQ(batch.weight[row], good ? 1 : 0);
    EXPECT_EQ(batch.x[row * elements], good ? batch.samples[row].index : 0);
  }
}

TEST_F(BatchReaderTest, WaitsOutAShardThatIsAway) {
  data_.SetDown({1});
  BatchReader reader(Options(3), &data_);
  ASSERT_TRUE(WaitFor([&] { return data_.reads() > 3; }));
  EXPECT_FALSE(reader.IsReady());
  EXPECT_FALSE(reader.WaitUntilReady(absl::Milliseconds(1)));
  data_.SetDown({});
  EXPECT_TRUE(reader.WaitUntilReady(absl::InfiniteDuration()));
  for (int i = 0; i < 3; ++i) {
    ASSERT_OK_AND_ASSIGN(const RankBatch batch, reader.Next());
    EXPECT_THAT(batch.skipped, IsEmpty());
    ExpectWhole(batch);
  }
}

TEST_F(BatchReaderTest, WaitsForTriplesOfALostVolume) {
  const std::vector<dataset::PlanItem> planned = Planned(Options(1), 0, 0);
  data_.SetMissing({planned[2].index, planned[5].index});
  BatchReader reader(Options(3), &data_);
  ASSERT_TRUE(WaitFor([&] { return data_.reads() > 12; }));
  EXPECT_FALSE(reader.IsReady());
  data_.SetMissing({});
  for (int i = 0; i < 3; ++i) {
    ASSERT_OK_AND_ASSIGN(const RankBatch batch, reader.Next());
    EXPECT_THAT(batch.skipped, IsEmpty());
    ExpectWhole(batch);
  }
}

TEST_F(BatchReaderTest, GivesUpOnTriplesThatStayAway) {
  data_.SetMissing({Planned(Options(1), 0, 0)[2].index});
  BatchReaderOptions options = Options(1);
  options.give_up_after = absl::Milliseconds(300);
  BatchReader reader(options, &data_);
  EXPECT_THAT(reader.Next(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("index")));
}

TEST_F(BatchReaderTest, GivesUpOnAShardThatStaysAway) {
  data_.SetDown({0});
  BatchReaderOptions options = Options(3);
  options.give_up_after = absl::Milliseconds(300);
  BatchReader reader(options, &data_);
  EXPECT_THAT(reader.Next(),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("reading from shard 0")));
}

TEST_F(BatchReaderTest, StopEndsAWait) {
  data_.SetDown({0, 1});
  BatchReader reader(Options(3), &data_);
  std::thread stopper([&] {
    WaitFor([&] { return data_.reads() > 0; });
    reader.Stop();
  });
  EXPECT_THAT(reader.Next(), StatusIs(absl::StatusCode::kCancelled));
  stopper.join();
}

TEST_F(BatchReaderTest, NamesASnapshotThatIsTooSmall) {
  data_.SetSealed({dataset::IndexSet({{0, 16}})});
  BatchReader reader(Options(3), &data_);
  EXPECT_THAT(reader.Next(),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("epoch 0 has 14 sealed training triples, less than a global "
                                 "batch of 16")));
}

TEST_F(BatchReaderTest, AsksForTheNextSnapshotLate) {
  const dataset::IndexSet larger({{0, 256}});
  data_.SetSealed({dataset::IndexSet({{0, 128}}), larger});
  const BatchReaderOptions options = Options(20);
  BatchReader reader(options, &data_);
  ASSERT_OK_AND_ASSIGN(RankBatch batch, reader.Next());
  // Six batches of the epoch are still to be consumed, two more than the lead.
  ASSERT_TRUE(WaitFor([&] { return data_.reads() >= 14; }));
  EXPECT_THAT(data_.snapshots_asked(), ElementsAre(0));
  for (int i = 1; i < 7; ++i) {
    ASSERT_OK_AND_ASSIGN(batch, reader.Next());
  }
  ASSERT_OK_AND_ASSIGN(batch, reader.Next());
  EXPECT_THAT(data_.snapshots_asked(), ElementsAre(0, 1));
  EXPECT_EQ(batch.samples[0].index, Planned(options, 1, 0, larger)[0].index);
}

TEST_F(BatchReaderTest, ReadAheadStopsAtTheByteLimit) {
  data_.SetSealed({dataset::IndexSet({{0, 4096}})});
  BatchReaderOptions options = Options(200);
  // A batch holds 16 * 12 numbers of z and of x.
  options.max_bytes = 5 * 16 * 12 * 4 * 2;
  BatchReader reader(options, &data_);
  // Five batches, each with one read on each of two shards.
  ASSERT_TRUE(WaitFor([&] { return data_.reads() == 10; }));
  ASSERT_OK_AND_ASSIGN(const RankBatch batch, reader.Next());
  ASSERT_TRUE(WaitFor([&] { return data_.reads() == 12; }));
}

TEST_F(BatchReaderTest, HidesSlowReadsBehindTraining) {
  data_.SetSealed({dataset::IndexSet({{0, 4096}})});
  data_.SetDelay(absl::Milliseconds(20));
  constexpr int kSteps = 60;
  BatchReader reader(Options(kSteps), &data_);
  ASSERT_OK_AND_ASSIGN(RankBatch batch, reader.Next());
  const absl::Duration before = reader.wait_time();
  const absl::Duration start = common::RealClock::Get()->SteadyNow();
  for (int step = 1; step < kSteps; ++step) {
    absl::SleepFor(absl::Milliseconds(30));  // Stands for a training step.
    ASSERT_OK_AND_ASSIGN(batch, reader.Next());
  }
  const absl::Duration took = common::RealClock::Get()->SteadyNow() - start;
  EXPECT_LT(reader.wait_time() - before, took / 100);
}

}  // namespace
}  // namespace d2g::rank

#include "worker/evaluate/held_out_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "services/store/client/append_limits.h"
#include "tests/testing/status_matchers.h"
#include "tests/worker/evaluate/simulated_triples.h"

namespace d2g::evaluate {
namespace {

using coordinator::v1::EvaluateWork;
using d2g::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ReadHeldOutTest : public ::testing::Test {
 protected:
  ReadHeldOutTest() {
    auto* recipe = work_.mutable_recipe();
    recipe->set_prompt_count(3);
    recipe->set_latent_channels(1);
    recipe->set_latent_height(2);
    recipe->set_latent_width(2);
    recipe->set_storage_dtype(common::v1::DTYPE_FP16);
    recipe->set_seed(5);
    recipe->set_block_size(16);
    recipe->set_holdout_every(8);
    recipe->set_shard_count(2);
    auto* range = work_.add_sealed();
    range->set_begin(0);
    range->set_end(40);
    work_.mutable_spec()->mutable_evaluate()->set_pictures(100);
    triples_ = std::make_unique<SimulatedTriples>(work_.recipe());
    for (int64_t index = 0; index < 40; index += 8) {
      triples_->Add(index, std::vector<float>(4, static_cast<float>(index)));
    }
  }

  absl::StatusOr<HeldOut> Read() {
    return ReadHeldOut(
        work_, prompts_,
        [this](int shard, const std::vector<int64_t>& indices) {
          return triples_->Read(shard, indices);
        },
        [this] {
          ++reads_;
          return absl::OkStatus();
        });
  }

  EvaluateWork work_;
  std::vector<std::string> prompts_{"a", "b", "c"};
  std::unique_ptr<SimulatedTriples> triples_;
  int reads_ = 0;
};

TEST_F(ReadHeldOutTest, ReadsFromBothShardsInOrder) {
  ASSERT_OK_AND_ASSIGN(const HeldOut held_out, Read());
  EXPECT_THAT(held_out.indices, ElementsAre(0, 8, 16, 24, 32));
  EXPECT_EQ(held_out.x.sizes(), at::IntArrayRef({5, 1, 2, 2}));
  for (int64_t i = 0; i < 5; ++i) {
    EXPECT_EQ(held_out.x[i].min().item<float>(), static_cast<float>(8 * i));
    EXPECT_EQ(held_out.z[i].flatten()[0].item<float>(), triples_->Noise(8 * i)[0]);
    const auto row = static_cast<size_t>(i);
    EXPECT_EQ(held_out.prompt_of[row], dataset::PromptIndexOf(5, 8 * i, 3));
    EXPECT_EQ(held_out.prompts[row], prompts_[static_cast<size_t>(held_out.prompt_of[row])]);
  }
  EXPECT_EQ(reads_, 2);
}

TEST_F(ReadHeldOutTest, TakesNoMoreThanAskedFor) {
  work_.mutable_spec()->mutable_evaluate()->set_pictures(3);
  ASSERT_OK_AND_ASSIGN(const HeldOut held_out, Read());
  EXPECT_THAT(held_out.indices, ElementsAre(0, 8, 16));
}

TEST_F(ReadHeldOutTest, LargeLatentsAreReadInSmallerCalls) {
  auto* recipe = work_.mutable_recipe();
  recipe->set_latent_height(2048);
  recipe->set_latent_width(2048);
  recipe->set_storage_dtype(common::v1::DTYPE_FP32);
  ASSERT_EQ(store::IndicesPerRead(*recipe), 1);
  work_.mutable_spec()->mutable_evaluate()->set_pictures(3);
  triples_ = std::make_unique<SimulatedTriples>(*recipe);
  for (const int64_t index : {0, 8, 16}) {
    triples_->Add(index, std::vector<float>(2048 * 2048, static_cast<float>(index)));
  }
  ASSERT_OK_AND_ASSIGN(const HeldOut held_out, Read());
  EXPECT_THAT(held_out.indices, ElementsAre(0, 8, 16));
  EXPECT_EQ(reads_, 3) << "0 and 8 are on one shard";
}

TEST_F(ReadHeldOutTest, LeavesOutWhatIsDamagedOrNotFromItsNoise) {
  triples_->Damage(8);
  triples_->at(24).set_noise_checksum(1);
  triples_->at(32).set_x_checksum(1);
  ASSERT_OK_AND_ASSIGN(const HeldOut held_out, Read());
  EXPECT_THAT(held_out.indices, ElementsAre(0, 16));
}

TEST_F(ReadHeldOutTest, NamesWhatItCannotUse) {
  work_.mutable_spec()->mutable_evaluate()->set_pictures(1);
  EXPECT_THAT(Read(), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("only 1")));
  prompts_.pop_back();
  EXPECT_THAT(Read(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("2 lines")));
  work_.mutable_recipe()->set_holdout_every(0);
  EXPECT_THAT(Read(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("holdout_every is 0")));
}

}  // namespace
}  // namespace d2g::evaluate

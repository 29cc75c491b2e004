#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "services/spec/normal_spec.h"
#include "tests/worker/distil/small_unet.h"
#include "worker/distil/regression.h"
#include "worker/distil/train_step.h"

namespace d2g::distil {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int64_t kRows = 4;

// A distance whose gradient, not its value, is NaN where b starts with a large number.
class SteepTerm : public LossTerm {
 public:
  SteepTerm() : LossTerm("steep", "loss_features", 1) {}
  at::Tensor PerSample(const at::Tensor& a, const MicroBatch& batch) const override {
    const at::Tensor& b = batch.x;
    const at::Tensor bad = b.flatten(1).select(1, 0) > 100;
    const at::Tensor zero = (a - a.detach()).pow(2).flatten(1).sum(1);
    return at::where(bad, zero, 1 + (a - b).pow(2).flatten(1).sum(1)).sqrt();
  }
};

std::unique_ptr<TrainStep> MakeStep() {
  common::v1::TrainSpec spec;
  spec.set_steps(1000);
  spec.mutable_gan()->set_weight(0.5);
  spec.mutable_gan()->set_start_step(2);
  spec.mutable_gan()->set_discriminator_start_step(1);
  EXPECT_THAT(spec::NormalizeTrainSpec(&spec), IsEmpty());
  model::SchedulerConfig config;
  config.prediction_type = model::Parametrization::kVPrediction;
  return std::make_unique<TrainStep>(
      spec, SmallUNet(), OneStepGenerator(model::DdimScheduler(config), std::nullopt, "x0"),
      LossTerms{std::make_shared<SteepTerm>(), MakePseudoHuberTerm(1, 0.03)}, at::kCPU);
}

MicroBatch Batch() {
  MicroBatch batch;
  batch.z = Normal({kRows, 4, 8, 8}, 1);
  batch.x = Normal({kRows, 4, 8, 8}, 2) * 0.5;
  batch.text = Normal({kRows, 3, 12}, 3);
  batch.weight = at::ones({kRows});
  batch.negatives = {NegativeKind::kGenerated, NegativeKind::kOtherText, NegativeKind::kOtherNoise,
                     NegativeKind::kGenerated};
  batch.other_text = batch.text.roll(2, 0);
  batch.other_noise = batch.z.roll(2, 0);
  return batch;
}

std::vector<std::vector<std::string>> FindAll(TrainStep& step, int64_t number,
                                              const MicroBatch& batch) {
  std::vector<std::vector<std::string>> found;
  for (int64_t row = 0; row < kRows; ++row) found.push_back(step.FindNonFinite(number, batch, row));
  return found;
}

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TEST(FindNonFinite, FiniteRowsHaveNone) {
  const auto step = MakeStep();
  EXPECT_THAT(FindAll(*step, 2, Batch()), ElementsAre(IsEmpty(), IsEmpty(), IsEmpty(), IsEmpty()));
}

TEST(FindNonFinite, NamesARowWhoseGradientAloneIsNotFinite) {
  const auto step = MakeStep();
  MicroBatch batch = Batch();
  batch.x[2][0][0][0] = 1000;
  EXPECT_THAT(FindAll(*step, 0, batch),
              ElementsAre(IsEmpty(), IsEmpty(), ElementsAre("steep"), IsEmpty()));
}

TEST(FindNonFinite, NamesThePredictionAndWhatOnlyTheDiscriminatorSees) {
  const auto step = MakeStep();
  MicroBatch batch = Batch();
  batch.text[0].fill_(kNan);
  batch.other_text = at::randn_like(batch.text);
  batch.other_text[1].fill_(kNan);
  EXPECT_THAT(FindAll(*step, 0, batch),
              ElementsAre(ElementsAre("prediction"), IsEmpty(), IsEmpty(), IsEmpty()));
  EXPECT_THAT(
      FindAll(*step, 2, batch),
      ElementsAre(ElementsAre("prediction"), ElementsAre("discriminator"), IsEmpty(), IsEmpty()));
}

TEST(FindNonFinite, SkippedRowsAreNotLookedAt) {
  const auto step = MakeStep();
  MicroBatch batch = Batch();
  batch.x[3].fill_(kNan);
  batch.weight[3] = 0;
  EXPECT_THAT(FindAll(*step, 2, batch), ElementsAre(IsEmpty(), IsEmpty(), IsEmpty(), IsEmpty()));
}

TEST(FindNonFinite, LeavesGradientsAlone) {
  const auto step = MakeStep();
  step->Run(2, kRows, {Batch()}, [](Network) {});
  const at::Tensor of_g = step->generator().gradients().clone();
  const at::Tensor of_d = step->discriminator().gradients().clone();
  step->FindNonFinite(2, Batch(), 1);
  EXPECT_TRUE(at::equal(step->generator().gradients(), of_g));
  EXPECT_TRUE(at::equal(step->discriminator().gradients(), of_d));
  EXPECT_GT(of_d.abs().max().item<float>(), 0);
}

}  // namespace
}  // namespace d2g::distil

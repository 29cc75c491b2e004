#include <ATen/core/grad_mode.h>

#include "worker/distil/train_step.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "model/files/error.h"
#include "services/spec/normal_spec.h"
#include "tests/worker/distil/small_unet.h"
#include "worker/distil/regression.h"

namespace d2g::distil {
namespace {

using model::TensorMap;
using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Key;
using testing::Not;
using testing::ThrowsMessage;

constexpr int64_t kRows = 6;

OneStepGenerator Conversion() {
  model::SchedulerConfig config;
  config.prediction_type = model::Parametrization::kVPrediction;
  return OneStepGenerator(model::DdimScheduler(config), std::nullopt, "x0");
}

common::v1::TrainSpec Spec() {
  common::v1::TrainSpec spec;
  spec.set_steps(1000);
  spec.set_learning_rate(1e-3);
  spec.mutable_gan()->set_weight(0.5);
  spec.mutable_gan()->set_start_step(2);
  spec.mutable_gan()->set_discriminator_start_step(1);
  spec.mutable_gan()->set_backbone_learning_rate(5e-5);
  spec.mutable_gan()->set_mismatch_weight(0.25);
  EXPECT_THAT(spec::NormalizeTrainSpec(&spec), IsEmpty());
  return spec;
}

std::unique_ptr<TrainStep> MakeStep(const common::v1::TrainSpec& spec = Spec()) {
  return std::make_unique<TrainStep>(spec, SmallUNet(), Conversion(),
                                     LossTerms{MakePseudoHuberTerm(1, 0.03)}, at::kCPU);
}

MicroBatch Batch() {
  MicroBatch batch;
  batch.z = Normal({kRows, 4, 8, 8}, 1);
  batch.x = Normal({kRows, 4, 8, 8}, 2) * 0.5;
  batch.text = Normal({kRows, 3, 12}, 3);
  batch.weight = at::ones({kRows});
  for (int64_t i = 0; i < kRows; ++i) batch.negatives.push_back(NegativeKindAt(i, 0.25));
  batch.other_text = batch.text.roll(1, 0);
  batch.other_noise = batch.z.roll(2, 0);
  return batch;
}

MicroBatch Slice(const MicroBatch& batch, int64_t begin, int64_t end) {
  auto cut = [&](const at::Tensor& tensor) { return tensor.slice(0, begin, end); };
  return {cut(batch.z),
          cut(batch.x),
          cut(batch.text),
          cut(batch.weight),
          {batch.negatives.begin() + begin, batch.negatives.begin() + end},
          cut(batch.other_text),
          cut(batch.other_noise)};
}

struct Gradients {
  at::Tensor discriminator;
  at::Tensor generator;
  std::map<std::string, double> metrics;
};

// On one rank there is nothing to sum.
void OneRank(Network) {}

// The gradients of one step from where `step` is, on batches that one rank computes in turn. Rates
// are too small to move anything, so that G's gradient is taken against the same D.
Gradients OneStep(const TrainStep& step, int64_t number, double count,
                  const std::vector<MicroBatch>& parts, common::v1::TrainSpec spec = Spec()) {
  spec.set_learning_rate(1e-30);
  spec.mutable_gan()->set_learning_rate(1e-30);
  spec.mutable_gan()->set_backbone_learning_rate(1e-30);
  const auto still = MakeStep(spec);
  still->LoadState(step.State());
  Gradients result;
  still->Run(number, count, parts, [&](Network network) {
    if (network == Network::kGenerator) {
      result.generator = still->generator().gradients().clone();
    } else {
      result.discriminator = still->discriminator().gradients().clone();
    }
  });
  result.metrics = still->Metrics();
  return result;
}

void Train(TrainStep& step, int64_t first, int64_t last) {
  for (int64_t k = first; k < last; ++k) step.Run(k, kRows, {Batch()}, OneRank);
}

// Largest difference over the largest value.
double Difference(const at::Tensor& a, const at::Tensor& b) {
  return ((a - b).abs().max() / b.abs().max()).item<double>();
}

TEST(NegativeKindAt, SharesAreKeptOverAnyStretch) {
  int counts[3] = {};
  for (int64_t i = 100; i < 164; ++i) ++counts[static_cast<int>(NegativeKindAt(i, 0.25))];
  EXPECT_NEAR(counts[static_cast<int>(NegativeKind::kOtherText)], 16, 2);
  EXPECT_NEAR(counts[static_cast<int>(NegativeKind::kOtherNoise)], 16, 2);
  EXPECT_EQ(NegativeKindAt(3, 0), NegativeKind::kGenerated);
}

TEST(TrainStep, FirstLossIsTheTeachers) {
  auto step = MakeStep();
  const MicroBatch batch = Batch();
  const Gradients result = OneStep(*step, 0, kRows, {batch});
  const at::NoGradGuard no_grad;
  const at::Tensor x = Conversion().Generate(SmallUNet(), batch.z, batch.text);
  const double expected =
      ((x - batch.x).square().flatten(1).mean(1) + 0.0009).sqrt().sub(0.03).mean().item<double>();
  EXPECT_NEAR(result.metrics.at("loss_regression"), expected, 1e-5);
  EXPECT_NEAR(result.metrics.at("loss"), expected, 1e-5);
  EXPECT_THAT(result.metrics, Not(Contains(Key("loss_d"))));
  EXPECT_FALSE(result.discriminator.defined());
}

TEST(TrainStep, DiscriminatorStartsBeforeTheAdversarialTerm) {
  auto step = MakeStep();
  const Gradients first = OneStep(*step, 1, kRows, {Batch()});
  // Logit 0 everywhere: log 2 for the solutions and as much for the negatives.
  EXPECT_NEAR(first.metrics.at("loss_d"), 2 * std::log(2), 1e-5);
  EXPECT_THAT(first.metrics, Not(Contains(Key("loss_g_adv"))));
  const Gradients second = OneStep(*step, 2, kRows, {Batch()});
  EXPECT_NEAR(second.metrics.at("loss_g_adv"), std::log(2), 1e-5);
  EXPECT_NEAR(second.metrics.at("loss"),
              second.metrics.at("loss_regression") + 0.5 * second.metrics.at("loss_g_adv"), 1e-5);
}

TEST(TrainStep, TheAdversarialTermsWeightGrowsOverItsRampSteps) {
  common::v1::TrainSpec spec = Spec();
  spec.mutable_gan()->set_ramp_steps(4);
  auto step = MakeStep(spec);
  for (const auto& [number, weight] : {std::pair{2, 0.125}, {3, 0.25}, {5, 0.5}, {6, 0.5}}) {
    const auto metrics = OneStep(*step, number, kRows, {Batch()}, spec).metrics;
    EXPECT_NEAR(metrics.at("loss"),
                metrics.at("loss_regression") + weight * metrics.at("loss_g_adv"), 1e-5)
        << number;
  }
}

TEST(TrainStep, GeneratorsGradientIsThatOfTheWholeLoss) {
  auto step = MakeStep();
  Train(*step, 0, 4);  // so that D has an opinion
  const MicroBatch batch = Batch();
  const at::Tensor found = OneStep(*step, 4, kRows, {batch}).generator;

  // The same loss in one graph.
  const std::map<std::string, TensorMap> state = step->State();
  model::UNet2DConditionModel unet(SmallUNetConfig(), state.at("generator"));
  FlatParameters flat(unet.parameters());
  const Discriminator discriminator(SmallUNet(), state.at("discriminator"), at::kCPU);
  const at::Tensor x = Conversion().Generate(unet, batch.z, batch.text);
  const at::Tensor loss = MakePseudoHuberTerm(1, 0.03)->PerSample(x, batch).mean() +
                          0.5 * RealLoss(discriminator.Forward(batch.z, x, batch.text)).mean();
  loss.backward();
  EXPECT_LT(Difference(found, flat.gradients()), 1e-4);
  EXPECT_GT(flat.gradients().abs().max().item<double>(), 0);
}

TEST(TrainStep, GeneratorsLossLeavesNothingInTheDiscriminator) {
  common::v1::TrainSpec spec = Spec();
  spec.set_clip_norm(1e6);  // clipping scales D's gradient in place
  auto step = MakeStep(spec);
  Train(*step, 0, 3);
  at::Tensor before;
  step->Run(3, kRows, {Batch()}, [&](Network network) {
    if (network == Network::kDiscriminator) before = step->discriminator().gradients().clone();
  });
  EXPECT_GT(before.abs().max().item<double>(), 0);
  EXPECT_TRUE(at::equal(before, step->discriminator().gradients()));
}

TEST(TrainStep, MicroBatchesAndRanksSumToTheWholeBatch) {
  auto step = MakeStep();
  Train(*step, 0, 3);
  const MicroBatch batch = Batch();
  const Gradients whole = OneStep(*step, 3, kRows, {batch});
  const Gradients cut = OneStep(*step, 3, kRows, {Slice(batch, 0, 4), Slice(batch, 4, 6)});
  EXPECT_LT(Difference(cut.generator, whole.generator), 1e-4);
  EXPECT_LT(Difference(cut.discriminator, whole.discriminator), 1e-4);
  EXPECT_NEAR(cut.metrics.at("loss"), whole.metrics.at("loss"), 1e-5);
  const Gradients one = OneStep(*step, 3, kRows, {Slice(batch, 0, 1)});
  const Gradients two = OneStep(*step, 3, kRows, {Slice(batch, 1, 6)});
  EXPECT_LT(Difference(one.generator + two.generator, whole.generator), 1e-4);
  EXPECT_LT(Difference(one.discriminator + two.discriminator, whole.discriminator), 1e-4);
}

TEST(TrainStep, SkippedTriplesCountNothing) {
  auto step = MakeStep();
  Train(*step, 0, 3);
  const MicroBatch batch = Batch();
  const Gradients without = OneStep(*step, 3, 5, {Slice(batch, 0, 5)});
  MicroBatch damaged = batch;
  damaged.x = batch.x.clone();
  damaged.x[5].fill_(std::numeric_limits<float>::quiet_NaN());
  damaged.weight = at::tensor({1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 0.0F});
  const Gradients with = OneStep(*step, 3, 5, {damaged});
  EXPECT_LT(Difference(with.generator, without.generator), 1e-4);
  EXPECT_LT(Difference(with.discriminator, without.discriminator), 1e-4);
}

TEST(TrainStep, LearnsToCopyTheTeachersSolutions) {
  common::v1::TrainSpec spec = Spec();
  spec.mutable_gan()->set_weight(0);
  auto step = MakeStep(spec);
  EXPECT_FALSE(step->has_discriminator());
  const double before = OneStep(*step, 0, kRows, {Batch()}, spec).metrics.at("loss");
  Train(*step, 0, 30);
  EXPECT_LT(OneStep(*step, 30, kRows, {Batch()}, spec).metrics.at("loss"), 0.6 * before);
}

TEST(TrainStep, DiscriminatorLearnsToTellApart) {
  auto step = MakeStep();
  const at::Tensor generator = step->generator().values().clone();
  for (int64_t k = 1; k < 40; ++k) step->RunDiscriminator(k, kRows, {Batch()}, OneRank);
  EXPECT_TRUE(at::equal(step->generator().values(), generator));
  const Gradients result = OneStep(*step, 40, kRows, {Batch()});
  EXPECT_GT(result.metrics.at("d_accuracy"), 0.8);
  EXPECT_LT(result.metrics.at("loss_d"), 2 * std::log(2) * 0.8);
}

TEST(TrainStep, GoesOnFromItsState) {
  auto step = MakeStep();
  Train(*step, 0, 4);
  auto resumed = MakeStep();
  resumed->LoadState(step->State());
  Train(*step, 4, 6);
  Train(*resumed, 4, 6);
  EXPECT_TRUE(at::equal(step->generator().values(), resumed->generator().values()));
  EXPECT_TRUE(at::equal(step->discriminator().values(), resumed->discriminator().values()));
  const auto a = step->State(), b = resumed->State();
  for (const auto& [file, tensors] : a) {
    for (const auto& [name, tensor] : tensors) {
      EXPECT_TRUE(at::equal(tensor, b.at(file).at(name))) << file << " " << name;
    }
  }
  auto state = step->State();
  state.erase("ema");
  EXPECT_THAT([&] { resumed->LoadState(state); },
              ThrowsMessage<model::Error>(HasSubstr("lacks ema")));
}

TEST(TrainStep, ANonFiniteGradientChangesNothing) {
  auto step = MakeStep();
  Train(*step, 0, 2);
  const auto before = step->State();
  const StepResult result = step->Run(2, kRows, {Batch()}, [&](Network network) {
    if (network == Network::kDiscriminator) return;
    step->generator().gradients()[0].fill_(std::numeric_limits<float>::infinity());
  });
  EXPECT_FALSE(result.discriminator->skipped);
  EXPECT_TRUE(result.generator->skipped);
  const auto after = step->State();
  for (const char* file : {"generator", "ema", "optimizer_g"}) {
    for (const auto& [name, tensor] : before.at(file)) {
      EXPECT_TRUE(at::equal(tensor, after.at(file).at(name))) << file << " " << name;
    }
  }
}

// Neither a step without triples of its own nor its rates need a batch.
StepResult EmptyStep(TrainStep& step, int64_t number) {
  return step.Run(number, kRows, {}, OneRank);
}

TEST(TrainStep, LearningRateWarmsUpAndFollowsTheCosine) {
  common::v1::TrainSpec spec = Spec();
  spec.set_steps(100);
  spec.set_warmup_steps(10);
  spec.set_schedule("cosine");
  auto step = MakeStep(spec);
  auto rate = [&](int64_t k) { return EmptyStep(*step, k).generator->learning_rate; };
  EXPECT_NEAR(rate(0), 1e-4, 1e-9);
  EXPECT_NEAR(rate(50), 0.5e-3, 1e-9);
  EXPECT_LT(rate(99), 1e-6);
  auto discriminator_rate = [&](int64_t k) {
    return EmptyStep(*step, k).discriminator->learning_rate;
  };
  // Its warm-up starts with its own first step.
  EXPECT_NEAR(discriminator_rate(1), 1e-4, 1e-9);
  EXPECT_NEAR(discriminator_rate(50), 1e-3, 1e-9);
  EXPECT_NEAR(discriminator_rate(99), 1e-3, 1e-9);
}

TEST(TrainStep, TheDiscriminatorsLearningRateFallsToZeroOverItsDecaySteps) {
  common::v1::TrainSpec spec = Spec();
  spec.set_steps(100);
  spec.mutable_gan()->set_decay_steps(20);
  auto step = MakeStep(spec);
  auto rate = [&](int64_t k) { return EmptyStep(*step, k).discriminator->learning_rate; };
  EXPECT_NEAR(rate(79), 1e-3, 1e-9);
  EXPECT_NEAR(rate(80), 1e-3, 1e-9);
  EXPECT_NEAR(rate(90), 0.5e-3, 1e-9);
  EXPECT_NEAR(rate(99), 0.05e-3, 1e-9);
  EXPECT_EQ(rate(100), 0);
  EXPECT_EQ(rate(101), 0);
}

TEST(TrainStep, WithoutDecayStepsTheDiscriminatorsLearningRateStays) {
  common::v1::TrainSpec spec = Spec();
  spec.set_steps(100);
  auto step = MakeStep(spec);
  for (const int64_t k : {99, 100, 101}) {
    EXPECT_NEAR(EmptyStep(*step, k).discriminator->learning_rate, 1e-3, 1e-9) << k;
  }
}

TEST(TrainStep, TheTeachersPartOfTheDiscriminatorMovesAtItsOwnRate) {
  common::v1::TrainSpec spec = Spec();
  spec.mutable_gan()->set_backbone_learning_rate(1e-5);
  auto step = MakeStep(spec);
  const TensorMap before = step->State().at("discriminator");
  step->Run(1, kRows, {}, [&](Network network) {
    if (network == Network::kDiscriminator) step->discriminator().gradients().fill_(1e-3);
  });
  const TensorMap after = step->State().at("discriminator");
  // Adam's first update is the learning rate, whatever the gradient.
  for (const auto& [name, tensor] : after) {
    const double moved = (tensor - before.at(name)).abs().max().item<double>();
    EXPECT_NEAR(moved, name.starts_with("unet.") ? 1e-5 : 1e-3, 2e-6) << name;
  }
}

TEST(TrainStep, RefusesABatchOfNothing) {
  auto step = MakeStep();
  EXPECT_THAT([&] { step->Run(0, 0, {}, OneRank); },
              ThrowsMessage<model::Error>(HasSubstr("valid_count")));
}

}  // namespace
}  // namespace d2g::distil

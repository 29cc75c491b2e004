// The recipe's discriminator on the demo teacher: after a short training it tells held-out
// solutions from the student's pictures, and needs the noise and the prompt to do it.
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/text_to_image.h"
#include "services/common/file_io.h"
#include "services/common/prompts.h"
#include "services/dataset/noise.h"
#include "services/spec/normal_spec.h"
#include "tests/testing/process.h"
#include "tests/testing/status_matchers.h"
#include "worker/distil/regression.h"
#include "worker/distil/train_step.h"
#include "worker/evaluate/measures.h"

namespace d2g::evaluate {
namespace {

using d2g::testing::SourcePath;

constexpr uint64_t kSeed = 5;
constexpr int64_t kHeldOut = 256, kTriples = kHeldOut + 1024, kBatch = 64;
constexpr int64_t kStudentSteps = 100, kDiscriminatorSteps = 200;
constexpr double kMismatchWeight = 0.05;

struct Triples {
  std::vector<int64_t> prompt_of;
  at::Tensor z, text, x;
};

Triples Simulate(const model::TextToImageModel& teacher, const std::vector<std::string>& prompts) {
  const at::NoGradGuard no_grad;
  Triples triples;
  std::vector<int64_t> shape = teacher.latent_shape();
  shape.insert(shape.begin(), kTriples);
  triples.z = at::empty(shape, at::kFloat);
  const size_t elements = static_cast<size_t>(triples.z[0].numel());
  for (int64_t i = 0; i < kTriples; ++i) {
    dataset::FillNoise(kSeed, i, {triples.z[i].mutable_data_ptr<float>(), elements});
    triples.prompt_of.push_back(i * 7 % static_cast<int64_t>(prompts.size()));
  }
  triples.text = EncodeAll(teacher, prompts).index_select(0, at::tensor(triples.prompt_of));
  const at::Tensor unconditional = teacher.EncodePrompts({""});
  std::vector<at::Tensor> parts;
  for (int64_t begin = 0; begin < kTriples; begin += kBatch) {
    parts.push_back(teacher.Solve(triples.z.narrow(0, begin, kBatch),
                                  triples.text.narrow(0, begin, kBatch), unconditional,
                                  {.steps = 12, .guidance = 3}));
  }
  triples.x = at::cat(parts);
  return triples;
}

// `steps` of training G, or of D beside a G that stands still, on the triples after the held-out
// ones.
void Train(distil::TrainStep& step, const Triples& triples, int64_t steps) {
  for (int64_t k = 0; k < steps; ++k) {
    const int64_t begin = kHeldOut + k * kBatch % (kTriples - kHeldOut);
    distil::MicroBatch batch;
    batch.z = triples.z.narrow(0, begin, kBatch);
    batch.x = triples.x.narrow(0, begin, kBatch);
    batch.text = triples.text.narrow(0, begin, kBatch);
    batch.weight = at::ones({kBatch});
    for (int64_t i = 0; i < kBatch; ++i) {
      batch.negatives.push_back(distil::NegativeKindAt(i, kMismatchWeight));
    }
    batch.other_text = batch.text.roll(11, 0);
    batch.other_noise = batch.z.roll(5, 0);
    const auto one_rank = [](distil::Network) {};
    if (step.has_discriminator()) {
      ASSERT_FALSE(step.RunDiscriminator(k, kBatch, {batch}, one_rank).skipped);
    } else {
      ASSERT_FALSE(step.Run(k, kBatch, {batch}, one_rank).generator->skipped);
    }
  }
}

TEST(Discriminator, TellsHeldOutSolutionsFromTheStudentsPictures) {
  at::set_num_threads(1);
  const model::TextToImageModel teacher = model::TextToImageModel::Load(SourcePath("demo/teacher"));
  ASSERT_OK_AND_ASSIGN(const std::string text, common::ReadFile(SourcePath("demo/prompts.txt")));
  ASSERT_OK_AND_ASSIGN(const common::PromptLines list, common::ParsePromptList(text));
  const Triples triples = Simulate(teacher, list.lines);

  const distil::OneStepGenerator conversion(teacher.scheduler(), std::nullopt, "x0");
  const distil::LossTerms regression = {distil::MakePseudoHuberTerm(1, 0.03)};
  common::v1::TrainSpec spec;
  spec.set_steps(kStudentSteps);
  spec.set_learning_rate(1e-3);
  spec.set_warmup_steps(10);
  spec.set_schedule("cosine");
  spec.set_ema_decay(0.9);
  ASSERT_THAT(spec::NormalizeTrainSpec(&spec), ::testing::IsEmpty());
  distil::TrainStep student_step(spec, teacher.unet(), conversion, regression, at::kCPU);
  Train(student_step, triples, kStudentSteps);

  common::v1::TrainSpec judging;
  judging.set_steps(kDiscriminatorSteps);
  judging.set_warmup_steps(10);
  common::v1::GanSpec& gan = *judging.mutable_gan();
  gan.set_weight(0.05);
  gan.set_start_step(kDiscriminatorSteps);
  gan.set_discriminator_start_step(0);
  gan.set_learning_rate(1e-3);
  gan.set_decay_steps(kDiscriminatorSteps / 5);
  gan.set_mismatch_weight(kMismatchWeight);
  ASSERT_THAT(spec::NormalizeTrainSpec(&judging), ::testing::IsEmpty());
  distil::TrainStep step(judging, teacher.unet(), conversion, regression, at::kCPU);
  auto state = step.State();
  const model::TensorMap ema = student_step.State().at("ema");
  state.at("generator") = state.at("ema") = ema;
  step.LoadState(state);
  Train(step, triples, kDiscriminatorSteps);

  const distil::Discriminator discriminator(teacher.unet(), step.State().at("discriminator"),
                                            at::kCPU);
  const model::UNet2DConditionModel student(teacher.unet().config(), ema);
  HeldOut held_out;
  held_out.z = triples.z.narrow(0, 0, kHeldOut);
  held_out.x = triples.x.narrow(0, 0, kHeldOut);
  for (int64_t i = 0; i < kHeldOut; ++i) {
    held_out.indices.push_back(i);
    held_out.prompt_of.push_back(triples.prompt_of[static_cast<size_t>(i)]);
    held_out.prompts.push_back(list.lines[static_cast<size_t>(held_out.prompt_of.back())]);
  }
  const at::Tensor held_text = triples.text.narrow(0, 0, kHeldOut);
  const at::NoGradGuard no_grad;
  const std::map<std::string, double> shares =
      MeasureDiscriminator(discriminator, held_out, held_text,
                           conversion.Generate(student, held_out.z, held_text), [](int64_t) {});
  for (const auto& [name, share] : shares) std::cout << name << " " << share << std::endl;
  EXPECT_GT(shares.at("accuracy"), 0.6);
  EXPECT_LT(shares.at("accuracy_noise_shuffled"), shares.at("accuracy"));
  EXPECT_LT(shares.at("accuracy_text_shuffled"), shares.at("accuracy"));
  EXPECT_GT(shares.at("pair_accuracy"), 0.85);
  EXPECT_LT(shares.at("pair_accuracy_noise_shuffled"), shares.at("pair_accuracy"));
  EXPECT_LT(shares.at("pair_accuracy_text_shuffled"), shares.at("pair_accuracy"));

  // A solution with its own noise and prompt against the same with another triple's.
  auto logit = [&](const at::Tensor& z, const at::Tensor& text) {
    return distil::MeanLogit(discriminator.Forward(z, held_out.x, text));
  };
  const at::Tensor own = logit(held_out.z, held_text);
  auto preferred = [&](const at::Tensor& other) {
    return (own > other).to(at::kDouble).mean().item<double>();
  };
  const double noise = preferred(logit(held_out.z.roll(1, 0), held_text));
  const double prompt = preferred(logit(held_out.z, held_text.roll(100, 0)));
  std::cout << "own noise preferred " << noise << ", own prompt " << prompt << std::endl;
  EXPECT_GT(noise, 0.6);
  EXPECT_GT(prompt, 0.6);
}

}  // namespace
}  // namespace d2g::evaluate

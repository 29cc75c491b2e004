#include "worker/distil/train_step.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "model/files/error.h"
#include "services/common/checkpoint_files.h"
#include "worker/distil/adversarial.h"

namespace d2g::distil {
namespace {

// GAN convention: little momentum, as the opponent moves.
constexpr double kDiscriminatorBeta1 = 0.5;

// sum over rows of weight * value / count.
at::Tensor WeightedMean(const at::Tensor& per_sample, const at::Tensor& weight, double count) {
  return (per_sample * weight).sum() / count;
}

const model::TensorMap& Find(const std::map<std::string, model::TensorMap>& state,
                             const std::string& file) {
  const auto found = state.find(file);
  if (found == state.end()) throw model::Error("the checkpoint lacks " + file);
  return found->second;
}

model::TensorMap OnCpu(const model::TensorMap& tensors) {
  model::TensorMap copies;
  for (const auto& [name, tensor] : tensors) {
    copies[name] = tensor.detach().to(at::kCPU, at::kFloat, false, /*copy=*/true);
  }
  return copies;
}

}  // namespace

TrainStep::TrainStep(const common::v1::TrainSpec& spec,
                     const model::UNet2DConditionModel& teacher_unet,
                     const OneStepGenerator& conversion, const LossTerms& regression,
                     at::Device device)
    : spec_(spec),
      conversion_(conversion),
      terms_(regression),
      generator_(std::make_unique<model::UNet2DConditionModel>(
          teacher_unet.config(), teacher_unet.parameters(),
          at::TensorOptions().dtype(at::kFloat).device(device))),
      generator_parameters_(std::make_unique<FlatParameters>(generator_->parameters())),
      generator_optimizer_(std::make_unique<AdamW>(
          *generator_parameters_, AdamW::Options{.weight_decay = spec.weight_decay()})),
      ema_(std::make_unique<Ema>(*generator_parameters_, spec.ema_decay())) {
  if (spec.gan().weight() > 0) MakeDiscriminator(teacher_unet, device);
}

void TrainStep::MakeDiscriminator(const model::UNet2DConditionModel& teacher_unet,
                                  at::Device device) {
  const common::v1::GanSpec& gan = spec_.gan();
  discriminator_ =
      std::make_shared<Discriminator>(teacher_unet, gan.output_scales(), spec_.seed(), device);
  discriminator_parameters_ = std::make_unique<FlatParameters>(discriminator_->parameters());
  discriminator_optimizer_ = std::make_unique<AdamW>(
      *discriminator_parameters_,
      AdamW::Options{.weight_decay = spec_.weight_decay(),
                     .beta1 = kDiscriminatorBeta1,
                     .scaled_prefix = Discriminator::kBackbonePrefix,
                     .scale = gan.backbone_learning_rate() / gan.learning_rate()});
  terms_.push_back(MakeAdversarialTerm(gan, discriminator_));
}

StepResult TrainStep::Run(int64_t step, double valid_count, const std::vector<MicroBatch>& batches,
                          const Reduce& reduce) {
  Begin(step, valid_count);
  GeneratorForward(batches);
  StepResult result;
  if (TrainsDiscriminator(step)) {
    result.discriminator = StepDiscriminator(reduce);
    if (result.discriminator->skipped) return result;
  }
  GeneratorBackward();
  reduce(Network::kGenerator);
  result.generator = UpdateGenerator();
  return result;
}

UpdateResult TrainStep::RunDiscriminator(int64_t step, double valid_count,
                                         const std::vector<MicroBatch>& batches,
                                         const Reduce& reduce) {
  Begin(step, valid_count);
  {
    const at::NoGradGuard no_grad;
    GeneratorForward(batches);
  }
  return StepDiscriminator(reduce);
}

UpdateResult TrainStep::StepDiscriminator(const Reduce& reduce) {
  DiscriminatorBackward();
  reduce(Network::kDiscriminator);
  return UpdateDiscriminator();
}

bool TrainStep::TrainsDiscriminator(int64_t step) const {
  return discriminator_ && step >= spec_.gan().discriminator_start_step();
}

void TrainStep::Begin(int64_t step, double valid_count) {
  if (!(valid_count >= 1)) model::Fail("valid_count is ", valid_count, ", must be at least 1");
  step_ = step;
  valid_count_ = valid_count;
  pending_.clear();
  metrics_.clear();
  generator_parameters_->ZeroGradients();
  if (discriminator_) discriminator_parameters_->ZeroGradients();
}

at::Tensor TrainStep::Generate(const MicroBatch& batch) const {
  return conversion_.Generate(*generator_, batch.z, batch.text);
}

void TrainStep::GeneratorForward(const std::vector<MicroBatch>& batches) {
  for (MicroBatch batch : batches) {
    if (batch.z.sizes() != batch.x.sizes() || batch.weight.numel() != batch.rows() ||
        batch.text.size(0) != batch.rows()) {
      throw model::Error("the micro-batch's z, x, text and weight differ in size");
    }
    // A damaged triple may hold anything; 0 times NaN would still be NaN.
    batch.x =
        at::where(batch.weight.view({-1, 1, 1, 1}) > 0, batch.x, at::zeros({}, batch.x.options()));
    at::Tensor pictures;
    if (batches.size() == 1) {
      pictures = Generate(batch);
    } else if (TrainsDiscriminator(step_)) {
      const at::NoGradGuard no_grad;
      pictures = Generate(batch);
    }
    pending_.push_back({std::move(batch), std::move(pictures)});
  }
}

void TrainStep::DiscriminatorBackward() {
  discriminator_parameters_->SetRequiresGrad(true);
  for (const Pending& pending : pending_) {
    const MicroBatch& batch = pending.batch;
    const JudgedTriples negatives = Negatives(batch, pending.pictures.detach());
    // Real and negative triples share one forward.
    const std::vector<at::Tensor> logits =
        discriminator_->Forward(at::cat({batch.z, negatives.z}), at::cat({batch.x, negatives.x}),
                                at::cat({batch.text, negatives.text}));
    const int64_t rows = batch.rows();
    std::vector<at::Tensor> real, negative;
    for (const at::Tensor& map : logits) {
      real.push_back(map.narrow(0, 0, rows));
      negative.push_back(map.narrow(0, rows, rows));
    }
    const at::Tensor loss =
        WeightedMean(RealLoss(real) + FakeLoss(negative), batch.weight, valid_count_);
    torch::autograd::backward({loss}, {});
    AddMetric(FigureName("loss_d"), loss);
    const at::NoGradGuard no_grad;
    const at::Tensor right = (MeanLogit(real) > 0).to(at::kFloat) + (MeanLogit(negative) < 0);
    AddMetric(FigureName("d_accuracy"), WeightedMean(right / 2, batch.weight, valid_count_));
  }
}

void TrainStep::GeneratorBackward() {
  // G's loss goes through D, but must leave nothing in D's gradient.
  if (discriminator_) discriminator_parameters_->SetRequiresGrad(false);
  for (Pending& pending : pending_) {
    GeneratorBackward(pending);
    pending = {};
  }
  pending_.clear();
  if (discriminator_) discriminator_parameters_->SetRequiresGrad(true);
}

void TrainStep::GeneratorBackward(const Pending& pending) {
  const MicroBatch& batch = pending.batch;
  const bool keeps_graph = pending.pictures.defined() && pending.pictures.requires_grad();
  const at::Tensor pictures = keeps_graph ? pending.pictures : Generate(batch);
  // Each term's gradient is taken at the pictures, so that G's backward runs once and the losses'
  // graphs are gone before it starts.
  const at::Tensor leaf = pictures.detach().requires_grad_(true);
  at::Tensor gradient = at::zeros_like(leaf), total = at::zeros({}, leaf.options());
  ForEachTerm(step_, [&](const LossTerm& term, double weight) {
    const at::Tensor loss = WeightedMean(term.PerSample(leaf, batch), batch.weight, valid_count_);
    gradient.add_(torch::autograd::grad({loss}, {leaf})[0], weight);
    AddMetric(term.figure(), loss);
    total.add_(loss.detach(), weight);
  });
  AddMetric(FigureName("loss"), total);
  torch::autograd::backward({pictures}, {gradient});
}

double TrainStep::WarmedUp(double rate, int64_t first_step) const {
  if (spec_.warmup_steps() <= 0) return rate;
  const double done = static_cast<double>(step_ - first_step + 1);
  return rate * std::min(1.0, done / static_cast<double>(spec_.warmup_steps()));
}

UpdateResult TrainStep::Update(FlatParameters& parameters, AdamW& optimizer, double learning_rate) {
  UpdateResult result;
  result.learning_rate = learning_rate;
  result.gradient_norm = ClipGradientNorm(parameters.gradients(), spec_.clip_norm());
  result.skipped = !std::isfinite(result.gradient_norm);
  if (!result.skipped) optimizer.Step(learning_rate);
  return result;
}

UpdateResult TrainStep::UpdateDiscriminator() {
  const common::v1::GanSpec& gan = spec_.gan();
  double rate = WarmedUp(gan.learning_rate(), gan.discriminator_start_step());
  const int64_t left = std::max<int64_t>(0, spec_.steps() - step_);
  if (left < gan.decay_steps()) {
    rate *= static_cast<double>(left) / static_cast<double>(gan.decay_steps());
  }
  return Update(*discriminator_parameters_, *discriminator_optimizer_, rate);
}

UpdateResult TrainStep::UpdateGenerator() {
  double rate = WarmedUp(spec_.learning_rate(), 0);
  if (spec_.schedule() == "cosine") {
    const double share = static_cast<double>(step_) / static_cast<double>(spec_.steps());
    rate *= 0.5 * (1 + std::cos(std::numbers::pi * std::min(1.0, share)));
  }
  const UpdateResult result = Update(*generator_parameters_, *generator_optimizer_, rate);
  if (!result.skipped) ema_->Update(step_);
  return result;
}

void TrainStep::AddMetric(const std::string& name, const at::Tensor& value) {
  at::Tensor& sum = metrics_[name];
  sum = sum.defined() ? sum + value.detach() : value.detach();
}

std::map<std::string, double> TrainStep::Metrics() const {
  std::map<std::string, double> values;
  for (const auto& [name, value] : metrics_) values[name] = value.item<double>();
  return values;
}

std::vector<std::string> TrainStep::MetricNames() const {
  std::vector<std::string> names = {FigureName("loss")};
  for (const auto& term : terms_) names.push_back(term->figure());
  if (discriminator_) {
    names.push_back(FigureName("loss_d"));
    names.push_back(FigureName("d_accuracy"));
  }
  return names;
}

std::map<std::string, model::TensorMap> TrainStep::State() const {
  std::map<std::string, model::TensorMap> state;
  state[common::kGeneratorTensors] = OnCpu(generator_parameters_->tensors());
  state[common::kEmaTensors] = ema_->State();
  state[common::kGeneratorOptimizerTensors] = generator_optimizer_->State();
  if (discriminator_) {
    state[common::kDiscriminatorTensors] = OnCpu(discriminator_parameters_->tensors());
    state[common::kDiscriminatorOptimizerTensors] = discriminator_optimizer_->State();
  }
  return state;
}

void TrainStep::LoadState(const std::map<std::string, model::TensorMap>& state) {
  generator_parameters_->Flatten(Find(state, common::kGeneratorTensors),
                                 generator_parameters_->values(), common::kGeneratorTensors);
  ema_->LoadState(Find(state, common::kEmaTensors));
  generator_optimizer_->LoadState(Find(state, common::kGeneratorOptimizerTensors));
  if (!discriminator_) return;
  discriminator_parameters_->Flatten(Find(state, common::kDiscriminatorTensors),
                                     discriminator_parameters_->values(),
                                     common::kDiscriminatorTensors);
  discriminator_optimizer_->LoadState(Find(state, common::kDiscriminatorOptimizerTensors));
}

}  // namespace d2g::distil

#include "worker/distil/train_step.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "model/files/error.h"
#include "services/common/checkpoint_files.h"

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

// Rows of `own`, or of `other` where `kind` is asked for.
at::Tensor ReplaceRows(const at::Tensor& own, const at::Tensor& other,
                       const std::vector<NegativeKind>& kinds, NegativeKind kind) {
  std::vector<int64_t> rows;
  for (size_t i = 0; i < kinds.size(); ++i) {
    if (kinds[i] == kind) rows.push_back(static_cast<int64_t>(i));
  }
  if (rows.empty()) return own;
  if (!other.defined() || other.sizes() != own.sizes()) {
    throw model::Error("the batch has mismatched negatives but not the tensor to make them from");
  }
  const at::Tensor index = at::tensor(rows).to(own.device());
  return own.index_copy(0, index, other.index_select(0, index));
}

}  // namespace

NegativeKind NegativeKindAt(int64_t position, double mismatch_weight) {
  // The fractional parts of multiples of the golden ratio fill [0, 1) evenly from the first on.
  double whole;
  const double place = std::modf(static_cast<double>(position) * (std::numbers::phi - 1), &whole);
  if (place < mismatch_weight) return NegativeKind::kOtherText;
  if (place < 2 * mismatch_weight) return NegativeKind::kOtherNoise;
  return NegativeKind::kGenerated;
}

TrainStep::TrainStep(const TrainStepOptions& options,
                     const model::UNet2DConditionModel& teacher_unet,
                     const OneStepGenerator& conversion,
                     std::vector<std::shared_ptr<const RegressionTerm>> regression,
                     at::Device device)
    : options_(options),
      conversion_(conversion),
      regression_(std::move(regression)),
      generator_(std::make_unique<model::UNet2DConditionModel>(
          teacher_unet.config(), teacher_unet.parameters(),
          at::TensorOptions().dtype(at::kFloat).device(device))),
      generator_parameters_(std::make_unique<FlatParameters>(generator_->parameters())),
      generator_optimizer_(std::make_unique<AdamW>(
          *generator_parameters_, AdamW::Options{.weight_decay = options.weight_decay})),
      ema_(std::make_unique<Ema>(*generator_parameters_, options.ema_decay)) {
  const AdversarialOptions& gan = options.gan;
  if (!(gan.mismatch_weight >= 0 && gan.mismatch_weight <= kMaxMismatchWeight)) {
    model::Fail("mismatch_weight is ", gan.mismatch_weight, ", must be in 0 to ",
                kMaxMismatchWeight);
  }
  if (regression_.empty() && gan.weight <= 0) {
    throw model::Error("the loss has no term: give regression or gan a weight above 0");
  }
  if (gan.weight <= 0) return;
  if (!(gan.learning_rate > 0)) {
    model::Fail("the discriminator's learning_rate is ", gan.learning_rate, ", must be above 0");
  }
  if (!(gan.backbone_learning_rate > 0)) {
    model::Fail("the discriminator's backbone_learning_rate is ", gan.backbone_learning_rate,
                ", must be above 0: at 0 its U-Net stands still");
  }
  if (gan.discriminator_start_step > gan.start_step) {
    throw model::Error("discriminator_start_step is " +
                       std::to_string(gan.discriminator_start_step) +
                       ", must be at most start_step, " + std::to_string(gan.start_step));
  }
  discriminator_ =
      std::make_unique<Discriminator>(teacher_unet, gan.output_scales, options.seed, device);
  discriminator_parameters_ = std::make_unique<FlatParameters>(discriminator_->parameters());
  discriminator_optimizer_ = std::make_unique<AdamW>(
      *discriminator_parameters_,
      AdamW::Options{.weight_decay = options.weight_decay,
                     .beta1 = kDiscriminatorBeta1,
                     .scaled_prefix = Discriminator::kBackbonePrefix,
                     .scale = gan.backbone_learning_rate / gan.learning_rate});
}

bool TrainStep::trains_discriminator() const {
  return discriminator_ && step_ >= options_.gan.discriminator_start_step;
}

bool TrainStep::uses_adversarial_term() const {
  return discriminator_ && step_ >= options_.gan.start_step;
}

void TrainStep::Begin(int64_t step, double valid_count, int micro_batches) {
  if (!(valid_count >= 1)) {
    throw model::Error("valid_count is " + std::to_string(valid_count) + ", must be at least 1");
  }
  step_ = step;
  valid_count_ = valid_count;
  micro_batches_ = micro_batches;
  pending_.clear();
  metrics_.clear();
  generator_parameters_->ZeroGradients();
  if (discriminator_) discriminator_parameters_->ZeroGradients();
}

at::Tensor TrainStep::Generate(const MicroBatch& batch) const {
  return conversion_.Generate(*generator_, batch.z, batch.text);
}

void TrainStep::GeneratorForward(const MicroBatch& given) {
  if (pending_.size() >= static_cast<size_t>(micro_batches_)) {
    throw model::Error("more micro-batches than the " + std::to_string(micro_batches_) +
                       " announced");
  }
  MicroBatch batch = given;
  if (batch.z.sizes() != batch.x.sizes() || batch.weight.numel() != batch.z.size(0) ||
      batch.text.size(0) != batch.z.size(0)) {
    throw model::Error("the micro-batch's z, x, text and weight differ in size");
  }
  // A damaged triple may hold anything; 0 times NaN would still be NaN.
  batch.x =
      at::where(batch.weight.view({-1, 1, 1, 1}) > 0, batch.x, at::zeros({}, batch.x.options()));
  at::Tensor pictures;
  if (micro_batches_ == 1) {
    pictures = Generate(batch);
  } else if (trains_discriminator()) {
    const at::NoGradGuard no_grad;
    pictures = Generate(batch);
  }
  pending_.push_back({std::move(batch), std::move(pictures)});
}

void TrainStep::DiscriminatorBackward() {
  discriminator_parameters_->SetRequiresGrad(true);
  for (const Pending& pending : pending_) {
    const MicroBatch& batch = pending.batch;
    if (static_cast<int64_t>(batch.negatives.size()) != batch.z.size(0)) {
      throw model::Error("the micro-batch names " + std::to_string(batch.negatives.size()) +
                         " negatives for " + std::to_string(batch.z.size(0)) + " triples");
    }
    const at::Tensor text =
        ReplaceRows(batch.text, batch.other_text, batch.negatives, NegativeKind::kOtherText);
    const at::Tensor noise =
        ReplaceRows(batch.z, batch.other_noise, batch.negatives, NegativeKind::kOtherNoise);
    const at::Tensor latent =
        ReplaceRows(batch.x, pending.pictures.detach(), batch.negatives, NegativeKind::kGenerated);
    // Real and negative triples share one forward.
    const std::vector<at::Tensor> logits = discriminator_->Forward(
        at::cat({batch.z, noise}), at::cat({batch.x, latent}), at::cat({batch.text, text}));
    const int64_t rows = batch.z.size(0);
    std::vector<at::Tensor> real, negative;
    for (const at::Tensor& map : logits) {
      real.push_back(map.narrow(0, 0, rows));
      negative.push_back(map.narrow(0, rows, rows));
    }
    const at::Tensor loss =
        WeightedMean(RealLoss(real) + FakeLoss(negative), batch.weight, valid_count_);
    torch::autograd::backward({loss}, {});
    AddMetric("discriminator_loss", loss);
    const at::NoGradGuard no_grad;
    const at::Tensor right = (MeanLogit(real) > 0).to(at::kFloat) + (MeanLogit(negative) < 0);
    AddMetric("discriminator_accuracy", WeightedMean(right / 2, batch.weight, valid_count_));
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
  auto add = [&](const std::string& name, double weight, const at::Tensor& per_sample) {
    const at::Tensor loss = WeightedMean(per_sample, batch.weight, valid_count_);
    gradient.add_(torch::autograd::grad({loss}, {leaf})[0], weight);
    AddMetric(name, loss);
    total.add_(loss.detach(), weight);
  };
  for (const auto& term : regression_) {
    add(term->name(), term->weight(), term->PerSample(leaf, batch.x));
  }
  if (uses_adversarial_term()) {
    add("adversarial", options_.gan.weight,
        RealLoss(discriminator_->Forward(batch.z, leaf, batch.text)));
  }
  AddMetric("loss", total);
  torch::autograd::backward({pictures}, {gradient});
}

double TrainStep::LearningRate(double base, int64_t first_step) const {
  if (options_.warmup_steps <= 0) return base;
  const double done = static_cast<double>(step_ - first_step + 1);
  return base * std::min(1.0, done / static_cast<double>(options_.warmup_steps));
}

UpdateResult TrainStep::Update(FlatParameters& parameters, AdamW& optimizer, double learning_rate) {
  UpdateResult result;
  result.learning_rate = learning_rate;
  result.gradient_norm = ClipGradientNorm(parameters.gradients(), options_.clip_norm);
  result.skipped = !std::isfinite(result.gradient_norm);
  if (!result.skipped) optimizer.Step(learning_rate);
  return result;
}

UpdateResult TrainStep::UpdateDiscriminator() {
  const AdversarialOptions& gan = options_.gan;
  double rate = LearningRate(gan.learning_rate, gan.discriminator_start_step);
  const int64_t left = std::max<int64_t>(0, options_.steps - step_);
  if (left < gan.decay_steps) {
    rate *= static_cast<double>(left) / static_cast<double>(gan.decay_steps);
  }
  return Update(*discriminator_parameters_, *discriminator_optimizer_, rate);
}

UpdateResult TrainStep::UpdateGenerator() {
  double rate = LearningRate(options_.learning_rate, 0);
  if (options_.schedule == Schedule::kCosine) {
    const double share = static_cast<double>(step_) / static_cast<double>(options_.steps);
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

// TrainStep::FindNonFinite (train_step.h): which term of one triple is not finite.
#include <algorithm>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include "worker/distil/train_step.h"

namespace d2g::distil {
namespace {

bool AllFinite(const at::Tensor& tensor) { return at::isfinite(tensor).all().item<bool>(); }

MicroBatch Row(const MicroBatch& batch, int64_t row) {
  const auto cut = [row](const at::Tensor& tensor) {
    return tensor.defined() ? tensor.narrow(0, row, 1) : tensor;
  };
  MicroBatch one;
  one.z = cut(batch.z);
  one.x = cut(batch.x);
  one.text = cut(batch.text);
  one.weight = cut(batch.weight);
  if (!batch.negatives.empty()) one.negatives = {batch.negatives[static_cast<size_t>(row)]};
  one.other_text = cut(batch.other_text);
  one.other_noise = cut(batch.other_noise);
  return one;
}

// Whether the gradient of `output`, weighted by `weights`, is finite for every parameter.
bool GradientIsFinite(const at::Tensor& output, const at::Tensor& weights,
                      const FlatParameters& parameters) {
  std::vector<at::Tensor> leaves;
  for (const auto& [name, tensor] : parameters.tensors()) leaves.push_back(tensor);
  const auto gradients = torch::autograd::grad({output}, leaves, {weights}, /*retain_graph=*/false,
                                               /*create_graph=*/false, /*allow_unused=*/true);
  return std::all_of(gradients.begin(), gradients.end(), [](const at::Tensor& gradient) {
    return !gradient.defined() || AllFinite(gradient);
  });
}

}  // namespace

bool TrainStep::DiscriminatorIsFinite(const MicroBatch& one, const at::Tensor& picture) {
  const NegativeKind kind = one.negatives.at(0);
  const at::Tensor loss = RealLoss(discriminator_->Forward(one.z, one.x, one.text)) +
                          FakeLoss(discriminator_->Forward(
                              kind == NegativeKind::kOtherNoise ? one.other_noise : one.z,
                              kind == NegativeKind::kGenerated ? picture : one.x,
                              kind == NegativeKind::kOtherText ? one.other_text : one.text));
  return AllFinite(loss) && GradientIsFinite(loss, at::ones_like(loss), *discriminator_parameters_);
}

std::vector<std::string> TrainStep::FindNonFinite(const MicroBatch& batch, int64_t row) {
  const MicroBatch one = Row(batch, row);
  if (!(one.weight.item<float>() > 0)) return {};
  const at::Tensor picture = Generate(one);
  if (!AllFinite(picture)) return {"prediction"};
  std::vector<std::string> found;
  if (trains_discriminator() && !DiscriminatorIsFinite(one, picture.detach())) {
    found.push_back("discriminator");
  }
  if (discriminator_) discriminator_parameters_->SetRequiresGrad(false);
  const at::Tensor leaf = picture.detach().requires_grad_(true);
  at::Tensor gradient = at::zeros_like(leaf);
  const auto look = [&](const std::string& name, double weight, const at::Tensor& loss) {
    const at::Tensor part = torch::autograd::grad({loss.sum()}, {leaf})[0];
    if (AllFinite(loss) && AllFinite(part)) {
      gradient.add_(part, weight);
    } else {
      found.push_back(name);
    }
  };
  for (const auto& term : regression_) {
    look(term->name(), term->weight(), term->PerSample(leaf, one.x));
  }
  if (uses_adversarial_term()) {
    look("adversarial", options_.gan.weight,
         RealLoss(discriminator_->Forward(one.z, leaf, one.text)));
  }
  if (discriminator_) discriminator_parameters_->SetRequiresGrad(true);
  if (!GradientIsFinite(picture, gradient, *generator_parameters_)) found.push_back("prediction");
  return found;
}

}  // namespace d2g::distil

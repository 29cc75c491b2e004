// TrainStep::FindNonFinite (train_step.h): which term of one triple is not finite.
#include <algorithm>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include "worker/distil/train_step.h"

namespace d2g::distil {
namespace {

bool AllFinite(const at::Tensor& tensor) { return at::isfinite(tensor).all().item<bool>(); }

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

bool TrainStep::DiscriminatorIsFinite(const MicroBatch& one, const at::Tensor& picture) const {
  const JudgedTriples negative = Negatives(one, picture);
  const at::Tensor loss = RealLoss(discriminator_->Forward(one.z, one.x, one.text)) +
                          FakeLoss(discriminator_->Forward(negative.z, negative.x, negative.text));
  return AllFinite(loss) && GradientIsFinite(loss, at::ones_like(loss), *discriminator_parameters_);
}

std::vector<std::string> TrainStep::FindNonFinite(int64_t step, const MicroBatch& batch,
                                                  int64_t row) {
  const MicroBatch one = batch.Row(row);
  if (!(one.weight.item<float>() > 0)) return {};
  const at::Tensor picture = Generate(one);
  if (!AllFinite(picture)) return {"prediction"};
  std::vector<std::string> found;
  if (TrainsDiscriminator(step) && !DiscriminatorIsFinite(one, picture.detach())) {
    found.push_back("discriminator");
  }
  if (discriminator_) discriminator_parameters_->SetRequiresGrad(false);
  const at::Tensor leaf = picture.detach().requires_grad_(true);
  at::Tensor gradient = at::zeros_like(leaf);
  ForEachTerm(step, [&](const LossTerm& term, double weight) {
    const at::Tensor loss = term.PerSample(leaf, one);
    const at::Tensor part = torch::autograd::grad({loss.sum()}, {leaf})[0];
    if (AllFinite(loss) && AllFinite(part)) {
      gradient.add_(part, weight);
    } else {
      found.push_back(term.name());
    }
  });
  if (discriminator_) discriminator_parameters_->SetRequiresGrad(true);
  if (!GradientIsFinite(picture, gradient, *generator_parameters_)) found.push_back("prediction");
  return found;
}

}  // namespace d2g::distil

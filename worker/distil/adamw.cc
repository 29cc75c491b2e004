#include "worker/distil/adamw.h"

#include <cmath>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "model/files/error.h"

namespace d2g::distil {

AdamW::AdamW(FlatParameters& parameters, const Options& options)
    : parameters_(parameters),
      options_(options),
      exp_avg_(at::zeros_like(parameters.values())),
      exp_avg_sq_(at::zeros_like(parameters.values())),
      step_(at::zeros({}, parameters.values().options())) {
  if (options.scaled_prefix.empty()) {
    stretches_ = {{0, parameters.size(), 1}};
    return;
  }
  const auto [offset, count] = parameters.StretchOf(options.scaled_prefix);
  stretches_ = {{0, offset, 1},
                {offset, count, options.scale},
                {offset + count, parameters.size() - offset - count, 1}};
  std::erase_if(stretches_, [](const Stretch& stretch) { return stretch.count == 0; });
}

void AdamW::Step(double learning_rate) {
  const at::NoGradGuard no_grad;
  // The kernel reads the count of this update, as the caller of the functional form must provide.
  step_.add_(1);
  for (const Stretch& stretch : stretches_) {
    auto part = [&](const at::Tensor& flat) {
      return flat.narrow(0, stretch.offset, stretch.count);
    };
    at::_fused_adamw_({part(parameters_.values())}, {part(parameters_.gradients())},
                      {part(exp_avg_)}, {part(exp_avg_sq_)},
                      /*max_exp_avg_sqs=*/{}, {step_}, learning_rate * stretch.scale,
                      options_.beta1, options_.beta2, options_.weight_decay, options_.epsilon,
                      /*amsgrad=*/false, /*maximize=*/false);
  }
}

int64_t AdamW::steps() const { return static_cast<int64_t>(step_.item<float>()); }

model::TensorMap AdamW::State() const {
  model::TensorMap state;
  for (const auto& [name, tensor] : parameters_.Unflatten(exp_avg_)) {
    state["exp_avg." + name] = tensor.to(at::kCPU, at::kFloat, false, /*copy=*/true);
  }
  for (const auto& [name, tensor] : parameters_.Unflatten(exp_avg_sq_)) {
    state["exp_avg_sq." + name] = tensor.to(at::kCPU, at::kFloat, false, /*copy=*/true);
  }
  state["step"] = step_.to(at::kCPU, at::kFloat, false, /*copy=*/true);
  return state;
}

void AdamW::LoadState(const model::TensorMap& state) {
  const std::string kAverage = "exp_avg.", kSquare = "exp_avg_sq.";
  model::TensorMap average, square;
  at::Tensor step;
  for (const auto& [name, tensor] : state) {
    if (name.starts_with(kAverage)) {
      average[name.substr(kAverage.size())] = tensor;
    } else if (name.starts_with(kSquare)) {
      square[name.substr(kSquare.size())] = tensor;
    } else if (name == "step") {
      step = tensor;
    } else {
      throw model::Error("optimiser state holds an unknown tensor " + name);
    }
  }
  if (!step.defined() || step.numel() != 1) {
    throw model::Error("optimiser state lacks the tensor step");
  }
  parameters_.Flatten(average, exp_avg_, "optimiser state exp_avg");
  parameters_.Flatten(square, exp_avg_sq_, "optimiser state exp_avg_sq");
  step_.copy_(step.reshape({}));
}

double ClipGradientNorm(const at::Tensor& gradients, double limit) {
  const at::NoGradGuard no_grad;
  const double norm = gradients.norm().item<double>();
  if (limit > 0 && std::isfinite(norm) && norm > limit) gradients.mul_(limit / norm);
  return norm;
}

}  // namespace d2g::distil

#include "worker/distil/ema.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "model/files/error.h"

namespace d2g::distil {

double EmaDecay(double decay, int64_t step) {
  return std::min(decay, static_cast<double>(1 + step) / static_cast<double>(10 + step));
}

Ema::Ema(const FlatParameters& parameters, double decay)
    : parameters_(parameters), decay_(decay), average_(parameters.values().clone()) {
  if (!(decay >= 0 && decay < 1)) {
    throw model::Error("ema_decay is " + std::to_string(decay) + ", must be in [0, 1)");
  }
}

void Ema::Update(int64_t step) {
  const at::NoGradGuard no_grad;
  average_.lerp_(parameters_.values(), 1 - EmaDecay(decay_, step));
}

model::TensorMap Ema::State() const {
  model::TensorMap state;
  for (const auto& [name, tensor] : parameters_.Unflatten(average_)) {
    state[name] = tensor.to(at::kCPU, at::kFloat, false, /*copy=*/true);
  }
  return state;
}

void Ema::LoadState(const model::TensorMap& state) {
  parameters_.Flatten(state, average_, "moving average");
}

}  // namespace d2g::distil

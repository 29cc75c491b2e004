#include "worker/model/solver/noise_schedule.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numbers>

#include <ATen/ATen.h>

namespace d2g::model {

namespace {

std::vector<float> ToVector(const at::Tensor& tensor) {
  const at::Tensor contiguous = tensor.to(at::kFloat).contiguous();
  const float* data = contiguous.const_data_ptr<float>();
  return {data, data + contiguous.numel()};
}

at::Tensor ToTensor(const std::vector<float>& values) {
  return at::tensor(at::ArrayRef<float>(values), at::kFloat);
}

// Betas of a schedule given by alphas_cumprod over time from 0 to 1: 1 - bar(t + 1) / bar(t), at
// most 0.999 (Nichol and Dhariwal 2021).
at::Tensor BetasOf(const std::function<double(double)>& bar, int64_t count) {
  const auto n = static_cast<double>(count);
  at::Tensor betas = at::empty({count}, at::kFloat);
  float* out = betas.mutable_data_ptr<float>();
  for (int64_t i = 0; i < count; ++i) {
    const auto t = static_cast<double>(i);
    out[i] = static_cast<float>(std::min(1 - bar((t + 1) / n) / bar(t / n), 0.999));
  }
  return betas;
}

double CosineBar(double t) {
  const double c = std::cos((t + 0.008) / 1.008 * std::numbers::pi / 2);
  return c * c;
}

double ExponentialBar(double t) { return std::exp(t * -12.0); }

// Scales the schedule so that its last step is pure noise.
at::Tensor RescaleToZeroTerminalSnr(const at::Tensor& betas) {
  const at::Tensor root = at::cumprod(1.0 - betas, 0).sqrt();
  const at::Tensor first = root[0].clone(), last = root[-1].clone();
  const at::Tensor scaled = (root - last) * (first / (first - last));
  const at::Tensor bar = scaled.square();
  const at::Tensor alphas = at::cat(
      {bar.narrow(0, 0, 1), bar.narrow(0, 1, bar.size(0) - 1) / bar.narrow(0, 0, bar.size(0) - 1)});
  return 1 - alphas;
}

at::Tensor MakeBetas(const SchedulerConfig& c) {
  if (!c.trained_betas.empty()) {
    return at::tensor(at::ArrayRef<double>(c.trained_betas), at::kDouble).to(at::kFloat);
  }
  if (c.beta_schedule == "linear") {
    return at::linspace(c.beta_start, c.beta_end, c.num_train_timesteps, at::kFloat);
  }
  if (c.beta_schedule == "scaled_linear") {
    return at::linspace(std::sqrt(c.beta_start), std::sqrt(c.beta_end), c.num_train_timesteps,
                        at::kFloat)
        .square();
  }
  return BetasOf(c.beta_schedule == "exp" ? ExponentialBar : CosineBar, c.num_train_timesteps);
}

}  // namespace

NoiseSchedule::NoiseSchedule(const SchedulerConfig& config) {
  const at::NoGradGuard no_grad;
  at::Tensor betas = MakeBetas(config);
  if (config.rescale_betas_zero_snr) betas = RescaleToZeroTerminalSnr(betas);
  betas_ = ToVector(betas);
  alphas_cumprod_ = ToVector(at::cumprod(1.0 - betas, 0));
  if (config.rescale_betas_zero_snr && config.kind != SolverKind::kDdim) {
    alphas_cumprod_.back() = 0x1p-24f;
  }
}

std::vector<float> NoiseSchedule::Sigmas() const {
  const at::Tensor bar = ToTensor(alphas_cumprod_);
  return ToVector(((1 - bar) / bar).sqrt());
}

std::vector<float> NoiseSchedule::Lambdas() const {
  const at::Tensor bar = ToTensor(alphas_cumprod_);
  return ToVector(bar.sqrt().log() - (1 - bar).sqrt().log());
}

}  // namespace d2g::model

#include "model/solver/noise_schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace d2g::model {

namespace {

// Products of 1 - betas. torch.cumprod multiplies in fp64 and rounds each.
std::vector<float> AlphasCumprod(const std::vector<float>& betas) {
  std::vector<float> products;
  double product = 1;
  for (const float beta : betas) {
    product *= 1.0f - beta;
    products.push_back(static_cast<float>(product));
  }
  return products;
}

double CosineBar(double t) {
  const double c = std::cos((t + 0.008) / 1.008 * std::numbers::pi / 2);
  return c * c;
}

double ExponentialBar(double t) { return std::exp(t * -12.0); }

// Betas of a schedule given by alphas_cumprod over time from 0 to 1: 1 - bar(t + 1) / bar(t), at
// most 0.999 (Nichol and Dhariwal 2021).
std::vector<float> BetasOf(double (*bar)(double), int64_t count) {
  const auto n = static_cast<double>(count);
  std::vector<float> betas;
  for (int64_t i = 0; i < count; ++i) {
    const auto t = static_cast<double>(i);
    betas.push_back(static_cast<float>(std::min(1 - bar((t + 1) / n) / bar(t / n), 0.999)));
  }
  return betas;
}

// Scales the schedule so that its last step is pure noise.
std::vector<float> RescaledToZeroTerminalSnr(const std::vector<float>& betas) {
  std::vector<float> bars = AlphasCumprod(betas);
  for (float& bar : bars) bar = std::sqrt(bar);
  const float first = bars.front(), last = bars.back();
  const float scale = first / (first - last);
  for (float& bar : bars) {
    const float root = (bar - last) * scale;
    bar = root * root;
  }
  std::vector<float> rescaled = {1.0f - bars.front()};
  for (size_t i = 1; i < bars.size(); ++i) rescaled.push_back(1.0f - bars[i] / bars[i - 1]);
  return rescaled;
}

std::vector<float> MakeBetas(const SchedulerConfig& c) {
  if (!c.trained_betas.empty()) return {c.trained_betas.begin(), c.trained_betas.end()};
  if (c.beta_schedule == "linear") {
    return Linspace32(c.beta_start, c.beta_end, c.num_train_timesteps);
  }
  if (c.beta_schedule == "scaled_linear") {
    std::vector<float> roots =
        Linspace32(std::sqrt(c.beta_start), std::sqrt(c.beta_end), c.num_train_timesteps);
    for (float& root : roots) root *= root;
    return roots;
  }
  return BetasOf(c.beta_schedule == "exp" ? ExponentialBar : CosineBar, c.num_train_timesteps);
}

}  // namespace

std::vector<float> Linspace32(double from, double to, int64_t count) {
  // As LibTorch's loops do it: from both ends to the middle, multiplied and added in one.
  const auto start = static_cast<float>(from), end = static_cast<float>(to);
  if (count == 1) return {start};
  const float step = (end - start) / static_cast<float>(count - 1);
  std::vector<float> points;
  for (int64_t i = 0; i < count; ++i) {
    points.push_back(i < count / 2 ? std::fma(step, static_cast<float>(i), start)
                                   : std::fma(-step, static_cast<float>(count - i - 1), end));
  }
  return points;
}

NoiseSchedule::NoiseSchedule(const SchedulerConfig& config) : betas_(MakeBetas(config)) {
  if (config.rescale_betas_zero_snr) betas_ = RescaledToZeroTerminalSnr(betas_);
  alphas_cumprod_ = AlphasCumprod(betas_);
  if (config.rescale_betas_zero_snr && config.kind != SolverKind::kDdim) {
    alphas_cumprod_.back() = 0x1p-24f;
  }
}

std::vector<float> NoiseSchedule::Sigmas() const {
  std::vector<float> sigmas;
  for (const float bar : alphas_cumprod_) sigmas.push_back(std::sqrt((1.0f - bar) / bar));
  return sigmas;
}

std::vector<float> NoiseSchedule::Lambdas() const {
  std::vector<float> lambdas;
  for (const float bar : alphas_cumprod_) {
    lambdas.push_back(std::log(std::sqrt(bar)) - std::log(std::sqrt(1.0f - bar)));
  }
  return lambdas;
}

}  // namespace d2g::model

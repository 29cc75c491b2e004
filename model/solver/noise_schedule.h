// How much noise each training timestep carries.
// Source: diffusers 0.35.2, the constructors of the schedulers; zero terminal SNR: Lin et al. 2023
// (arXiv 2305.08891), algorithm 1.
#pragma once

#include <vector>

#include "model/solver/scheduler_config.h"

namespace d2g::model {

// torch.linspace in fp32: `count` points from `from` to `to`, both included.
std::vector<float> Linspace32(double from, double to, int64_t count);

// fp32 tables of num_train_timesteps entries each. Immutable; thread-safe.
class NoiseSchedule {
 public:
  explicit NoiseSchedule(const SchedulerConfig& config);

  const std::vector<float>& betas() const { return betas_; }
  // With rescale_betas_zero_snr the last entry is 0 for ddim; the other solvers, which divide by
  // it, take 2^-24.
  const std::vector<float>& alphas_cumprod() const { return alphas_cumprod_; }
  // Noise over signal: sqrt((1 - alphas_cumprod) / alphas_cumprod).
  std::vector<float> Sigmas() const;
  // log(signal / noise), decreasing.
  std::vector<float> Lambdas() const;

 private:
  std::vector<float> betas_;
  std::vector<float> alphas_cumprod_;
};

}  // namespace d2g::model

// The DDIM scheduler (eta = 0: the deterministic probability-flow solver of the teacher).
// Source: Song et al. 2021 (arXiv 2010.02502), equations 12 and 16; diffusers 0.35.2,
// schedulers/scheduling_ddim.py.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "model/solver/noise_schedule.h"
#include "model/solver/scheduler_config.h"

namespace d2g::model {

// x0 in fp32 from a noisy latent z_t, the network's output (both [B, ...], any floating dtype) and
// alphas_cumprod[t]. epsilon: (z - sqrt(1-a) out) / sqrt(a); v: sqrt(a) z - sqrt(1-a) out; sample:
// out. Differentiable. Throws Error for epsilon with alpha_cumprod 0.
at::Tensor PredictOriginal(const at::Tensor& z, const at::Tensor& output, float alpha_cumprod,
                           Parametrization parametrization);

// Immutable; thread-safe.
class DdimScheduler {
 public:
  // Throws Error unless config.kind is kDdim.
  explicit DdimScheduler(const SchedulerConfig& config);

  // Those of DdimTimesteps.
  std::vector<int64_t> Timesteps(int64_t steps,
                                 const std::optional<std::string>& spacing = std::nullopt) const;

  // z at `timestep` and the network's output there -> z at timestep - num_train_timesteps / steps
  // (integer division; below 0 the final alpha). fp32 arithmetic unless z is double.
  at::Tensor Step(const at::Tensor& output, int64_t timestep, const at::Tensor& z,
                  int64_t steps) const;

  // x0 in fp32 at `timestep`, not clipped; in the file's parametrization or in another one.
  at::Tensor PredictX0(const at::Tensor& z, const at::Tensor& output, int64_t timestep) const;
  at::Tensor PredictX0(const at::Tensor& z, const at::Tensor& output, int64_t timestep,
                       Parametrization parametrization) const;

  // fp32, num_train_timesteps of each.
  const std::vector<float>& alphas_cumprod() const { return schedule_.alphas_cumprod(); }
  const std::vector<float>& betas() const { return schedule_.betas(); }
  double init_noise_sigma() const { return 1.0; }
  const SchedulerConfig& config() const { return config_; }

 private:
  SchedulerConfig config_;
  NoiseSchedule schedule_;
  float final_alpha_cumprod_ = 1;
};

}  // namespace d2g::model

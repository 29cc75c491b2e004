// Euler's method over noise levels.
// Source: Karras et al. 2022 (arXiv 2206.00364), algorithm 2 without churn; diffusers 0.35.2,
// schedulers/scheduling_euler_discrete.py.
#pragma once

#include "model/solver/sigma_grid.h"
#include "model/solver/solver.h"

namespace d2g::model {

// x0 from a sample with noise level sigma (signal 1) and the network's output for it.
at::Tensor OriginalAtSigma(const at::Tensor& z, const at::Tensor& output, float sigma,
                           Parametrization parametrization);

// The noise level of the first sample: the largest sigma of the run, or sqrt(sigma^2 + 1) where
// timesteps are spaced leading.
double FirstSigma(const SchedulerConfig& config, const std::vector<float>& sigmas);

class EulerSolver : public Solver {
 public:
  // Throws Error like MakeEulerGrid.
  EulerSolver(const SchedulerConfig& config, int64_t steps);

  double init_noise_sigma() const override { return FirstSigma(config_, sigmas_); }
  at::Tensor ScaleInput(const at::Tensor& z, size_t i) const override;
  at::Tensor Step(const at::Tensor& output, size_t i, const at::Tensor& z) override;

 private:
  EulerSolver(const SchedulerConfig& config, SigmaGrid grid);

  SchedulerConfig config_;
  std::vector<float> sigmas_;
};

}  // namespace d2g::model

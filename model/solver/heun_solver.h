// Heun's method over noise levels: two evaluations of the network for each step but the last.
// Source: Karras et al. 2022 (arXiv 2206.00364), algorithm 1; diffusers 0.35.2,
// schedulers/scheduling_heun_discrete.py.
#pragma once

#include "model/solver/sigma_grid.h"
#include "model/solver/solver.h"

namespace d2g::model {

class HeunSolver : public Solver {
 public:
  // 2 * steps - 1 evaluations: each step tries its end point and then corrects itself, but the last
  // one ends at noise level 0, where no slope is. Throws Error like MakeEulerGrid.
  HeunSolver(const SchedulerConfig& config, int64_t steps);

  double init_noise_sigma() const override;
  at::Tensor ScaleInput(const at::Tensor& z, size_t i) const override;
  at::Tensor Step(const at::Tensor& output, size_t i, const at::Tensor& z) override;

 private:
  HeunSolver(const SchedulerConfig& config, SigmaGrid grid);

  // The noise level of evaluation i.
  float SigmaAt(size_t i) const { return sigmas_.at((i + 1) / 2); }

  SchedulerConfig config_;
  std::vector<float> sigmas_;
  // Between a trial and its correction: where the step began, and the slope there.
  at::Tensor sample_, derivative_;
};

}  // namespace d2g::model

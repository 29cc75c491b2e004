// DPM-Solver++ and DPM-Solver, multistep, of order 1 to 3 (2 by default).
// Source: Lu et al. 2022 (arXiv 2211.01095 and 2206.00927); diffusers 0.35.2,
// schedulers/scheduling_dpmsolver_multistep.py.
#pragma once

#include <deque>

#include "model/solver/sigma_grid.h"
#include "model/solver/solver.h"

namespace d2g::model {

class DpmSolver : public Solver {
 public:
  // Throws Error like MakeDpmGrid.
  DpmSolver(const SchedulerConfig& config, int64_t steps);

  double init_noise_sigma() const override { return 1.0; }
  at::Tensor ScaleInput(const at::Tensor& z, size_t i) const override;
  at::Tensor Step(const at::Tensor& output, size_t i, const at::Tensor& z) override;

 private:
  DpmSolver(const SchedulerConfig& config, SigmaGrid grid);

  // Signal, noise and half the log of their squared ratio at a noise level, fp32.
  struct Level {
    float alpha = 0;
    float sigma = 0;
    float lambda = 0;
  };
  Level LevelAt(size_t i) const;

  // What the solver integrates: x0 (dpmsolver++) or the noise (dpmsolver).
  at::Tensor ConvertOutput(const at::Tensor& output, const Level& level, const at::Tensor& z) const;
  // The order that the history and the end of the run allow.
  int64_t OrderAt(size_t i) const;
  at::Tensor Update(int64_t order, size_t i, const at::Tensor& z) const;

  SchedulerConfig config_;
  std::vector<float> sigmas_;
  std::deque<at::Tensor> outputs_;  // converted, newest first, solver_order at most
};

}  // namespace d2g::model

// A run of the DDIM scheduler.
#pragma once

#include "model/solver/ddim_scheduler.h"
#include "model/solver/solver.h"

namespace d2g::model {

class DdimSolver : public Solver {
 public:
  // Throws Error like DdimScheduler::Timesteps.
  DdimSolver(const SchedulerConfig& config, int64_t steps);

  double init_noise_sigma() const override { return scheduler_.init_noise_sigma(); }
  at::Tensor ScaleInput(const at::Tensor& z, size_t i) const override;
  at::Tensor Step(const at::Tensor& output, size_t i, const at::Tensor& z) override;

 private:
  DdimSolver(DdimScheduler scheduler, int64_t steps);

  DdimScheduler scheduler_;
  int64_t steps_;
};

}  // namespace d2g::model

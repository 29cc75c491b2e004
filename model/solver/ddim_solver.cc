#include "model/solver/ddim_solver.h"

#include <ATen/ATen.h>

namespace d2g::model {

namespace {

std::vector<double> TimestepsOf(const DdimScheduler& scheduler, int64_t steps) {
  const std::vector<int64_t> timesteps = scheduler.Timesteps(steps);
  return {timesteps.begin(), timesteps.end()};
}

}  // namespace

DdimSolver::DdimSolver(const SchedulerConfig& config, int64_t steps)
    : DdimSolver(DdimScheduler(config), steps) {}

DdimSolver::DdimSolver(DdimScheduler scheduler, int64_t steps)
    : Solver(TimestepsOf(scheduler, steps)), scheduler_(std::move(scheduler)), steps_(steps) {}

at::Tensor DdimSolver::ScaleInput(const at::Tensor& z, size_t /*i*/) const { return z; }

at::Tensor DdimSolver::Step(const at::Tensor& output, size_t i, const at::Tensor& z) {
  return scheduler_.Step(output.to(at::kFloat), static_cast<int64_t>(timesteps().at(i)),
                         z.to(at::kFloat), steps_);
}

}  // namespace d2g::model

#include "model/solver/heun_solver.h"

#include <cmath>

#include <ATen/ATen.h>

#include "model/files/error.h"
#include "model/solver/euler_solver.h"

namespace d2g::model {

namespace {

std::vector<double> Doubled(const std::vector<double>& timesteps) {
  std::vector<double> doubled = {timesteps.front()};
  for (size_t i = 1; i < timesteps.size(); ++i) doubled.insert(doubled.end(), 2, timesteps[i]);
  return doubled;
}

}  // namespace

HeunSolver::HeunSolver(const SchedulerConfig& config, int64_t steps)
    : HeunSolver(config, MakeEulerGrid(config, NoiseSchedule(config), steps)) {}

HeunSolver::HeunSolver(const SchedulerConfig& config, SigmaGrid grid)
    : Solver(Doubled(grid.timesteps)), config_(config), sigmas_(std::move(grid.sigmas)) {}

double HeunSolver::init_noise_sigma() const { return FirstSigma(config_, sigmas_); }

at::Tensor HeunSolver::ScaleInput(const at::Tensor& z, size_t i) const {
  return z / std::sqrt(SigmaAt(i) * SigmaAt(i) + 1);
}

at::Tensor HeunSolver::Step(const at::Tensor& output, size_t i, const at::Tensor& z) {
  const bool correcting = i % 2 == 1;
  if (correcting != sample_.defined()) Fail("step ", i, " of a run is out of order");
  const float sigma = SigmaAt(i);
  const at::Tensor sample = z.to(at::kFloat);
  at::Tensor original =
      OriginalAtSigma(sample, output.to(at::kFloat), sigma, config_.prediction_type);
  if (config_.clip_sample) {
    original = original.clamp(-config_.clip_sample_range, config_.clip_sample_range);
  }
  const at::Tensor derivative = (sample - original) / sigma;
  if (correcting) {
    const at::Tensor result =
        sample_ + (derivative_ + derivative) / 2 * (sigma - sigmas_.at(i / 2));
    sample_ = derivative_ = at::Tensor();
    return result;
  }
  const float next = sigmas_.at(i / 2 + 1);
  if (i + 1 < timesteps().size()) {
    sample_ = sample;
    derivative_ = derivative;
  }
  return sample + derivative * (next - sigma);
}

}  // namespace d2g::model

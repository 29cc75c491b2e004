#include "model/solver/euler_solver.h"

#include <algorithm>
#include <cmath>

#include <ATen/ATen.h>

#include "model/files/error.h"

namespace d2g::model {

at::Tensor OriginalAtSigma(const at::Tensor& z, const at::Tensor& output, float sigma,
                           Parametrization parametrization) {
  const float variance = sigma * sigma + 1;
  switch (parametrization) {
    case Parametrization::kEpsilon:
      return z - sigma * output;
    case Parametrization::kVPrediction:
      return output * (-sigma / std::sqrt(variance)) + z / variance;
    case Parametrization::kSample:
      return output;
  }
  Fail("unknown prediction type");
}

double FirstSigma(const SchedulerConfig& config, const std::vector<float>& sigmas) {
  const float largest = *std::max_element(sigmas.begin(), sigmas.end());
  return config.timestep_spacing == "leading" ? std::sqrt(largest * largest + 1) : largest;
}

EulerSolver::EulerSolver(const SchedulerConfig& config, int64_t steps)
    : EulerSolver(config, MakeEulerGrid(config, NoiseSchedule(config), steps)) {}

EulerSolver::EulerSolver(const SchedulerConfig& config, SigmaGrid grid)
    : Solver(std::move(grid.timesteps)), config_(config), sigmas_(std::move(grid.sigmas)) {}

at::Tensor EulerSolver::ScaleInput(const at::Tensor& z, size_t i) const {
  return z / std::sqrt(sigmas_.at(i) * sigmas_[i] + 1);
}

at::Tensor EulerSolver::Step(const at::Tensor& output, size_t i, const at::Tensor& z) {
  const float sigma = sigmas_.at(i);
  const at::Tensor sample = z.to(at::kFloat);
  const at::Tensor original =
      OriginalAtSigma(sample, output.to(at::kFloat), sigma, config_.prediction_type);
  return sample + (sample - original) / sigma * (sigmas_.at(i + 1) - sigma);
}

}  // namespace d2g::model

#include "model/solver/dpm_solver.h"

#include <cmath>

#include <ATen/ATen.h>

#include "model/files/error.h"
#include "model/solver/dynamic_threshold.h"

namespace d2g::model {

namespace {

// Below this many steps the last ones are of lower order.
constexpr size_t kManySteps = 15;

// LibTorch's own functions: small steps cancel most digits of exp(-h) - 1.
float Exp(float x) { return at::scalar_tensor(x, at::kFloat).exp().item<float>(); }
float Log(float x) { return at::scalar_tensor(x, at::kFloat).log().item<float>(); }

}  // namespace

DpmSolver::DpmSolver(const SchedulerConfig& config, int64_t steps)
    : DpmSolver(config, MakeDpmGrid(config, NoiseSchedule(config), steps)) {}

DpmSolver::DpmSolver(const SchedulerConfig& config, SigmaGrid grid)
    : Solver(std::move(grid.timesteps)), config_(config), sigmas_(std::move(grid.sigmas)) {}

at::Tensor DpmSolver::ScaleInput(const at::Tensor& z, size_t /*i*/) const { return z; }

DpmSolver::Level DpmSolver::LevelAt(size_t i) const {
  const float ratio = sigmas_.at(i);
  Level level;
  level.alpha = 1 / std::sqrt(ratio * ratio + 1);
  level.sigma = ratio * level.alpha;
  level.lambda = Log(level.alpha) - Log(level.sigma);
  return level;
}

at::Tensor DpmSolver::ConvertOutput(const at::Tensor& output, const Level& level,
                                    const at::Tensor& z) const {
  const auto threshold = [this](const at::Tensor& original) {
    return config_.thresholding ? DynamicThreshold(original, config_.dynamic_thresholding_ratio,
                                                   config_.sample_max_value)
                                : original;
  };
  if (config_.algorithm_type == "dpmsolver++") {
    switch (config_.prediction_type) {
      case Parametrization::kEpsilon:
        return threshold((z - level.sigma * output) / level.alpha);
      case Parametrization::kVPrediction:
        return threshold(level.alpha * z - level.sigma * output);
      case Parametrization::kSample:
        return threshold(output);
    }
  }
  at::Tensor noise = output;
  if (config_.prediction_type == Parametrization::kSample) {
    noise = (z - level.alpha * output) / level.sigma;
  } else if (config_.prediction_type == Parametrization::kVPrediction) {
    noise = level.alpha * output + level.sigma * z;
  }
  if (!config_.thresholding) return noise;
  return (z - level.alpha * threshold((z - level.sigma * noise) / level.alpha)) / level.sigma;
}

int64_t DpmSolver::OrderAt(size_t i) const {
  const size_t steps = timesteps().size();
  const bool ease_off = config_.lower_order_final && steps < kManySteps;
  int64_t order = std::min(config_.solver_order, static_cast<int64_t>(i) + 1);
  if (i + 1 == steps &&
      (ease_off || config_.euler_at_final || config_.final_sigmas_type == "zero")) {
    order = 1;
  }
  if (i + 2 == steps && ease_off) order = std::min<int64_t>(order, 2);
  return order;
}

at::Tensor DpmSolver::Update(int64_t order, size_t i, const at::Tensor& z) const {
  const bool data = config_.algorithm_type == "dpmsolver++";
  const Level to = LevelAt(i + 1), from = LevelAt(i);
  const float h = to.lambda - from.lambda;
  // The integral of the newest output over the step; data prediction has it with the signs of h and
  // of the signal turned.
  const float weight = data ? to.alpha : to.sigma;
  const float grown = data ? Exp(-h) - 1.0f : Exp(h) - 1.0f;
  const float kept = data ? to.sigma / from.sigma : to.alpha / from.alpha;
  at::Tensor next = kept * z - weight * grown * outputs_[0];
  if (order == 1) return next;

  const float h0 = from.lambda - LevelAt(i - 1).lambda;
  const float r0 = h0 / h;
  const at::Tensor slope0 = (1.0f / r0) * (outputs_[0] - outputs_[1]);
  // How the first derivative enters: integrated, or at the middle of the step.
  const float integrated = data ? weight * (grown / h + 1.0f) : -(weight * (grown / h - 1.0f));
  if (order == 2) {
    return next + (config_.solver_type == "heun" ? integrated : -0.5f * (weight * grown)) * slope0;
  }

  const float h1 = LevelAt(i - 1).lambda - LevelAt(i - 2).lambda;
  const float r1 = h1 / h;
  const at::Tensor slope1 = (1.0f / r1) * (outputs_[1] - outputs_[2]);
  const at::Tensor first = slope0 + (r0 / (r0 + r1)) * (slope0 - slope1);
  const at::Tensor second = (1.0f / (r0 + r1)) * (slope0 - slope1);
  const float curved = data ? (grown + h) / (h * h) - 0.5f : (grown - h) / (h * h) - 0.5f;
  return next + integrated * first - weight * curved * second;
}

at::Tensor DpmSolver::Step(const at::Tensor& output, size_t i, const at::Tensor& z) {
  if (i > 0 && outputs_.empty()) Fail("step ", i, " of a run is out of order");
  const at::Tensor sample = z.to(at::kFloat);
  outputs_.push_front(ConvertOutput(output.to(at::kFloat), LevelAt(i), sample));
  if (outputs_.size() > static_cast<size_t>(config_.solver_order)) outputs_.pop_back();
  return Update(OrderAt(i), i, sample);
}

}  // namespace d2g::model

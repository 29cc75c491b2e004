#include "worker/model/solver/ddim_scheduler.h"

#include <cmath>

#include "worker/model/files/error.h"
#include "worker/model/solver/dynamic_threshold.h"
#include "worker/model/solver/sigma_grid.h"

namespace d2g::model {

at::Tensor PredictOriginal(const at::Tensor& z, const at::Tensor& output, float alpha_cumprod,
                           Parametrization parametrization) {
  const at::Tensor z32 = z.to(at::kFloat), out32 = output.to(at::kFloat);
  const float root_alpha = std::sqrt(alpha_cumprod);
  const float root_beta = std::sqrt(1 - alpha_cumprod);
  switch (parametrization) {
    case Parametrization::kEpsilon:
      if (alpha_cumprod == 0) Fail("epsilon cannot be turned into x0 where alphas_cumprod is 0");
      return (z32 - root_beta * out32) / root_alpha;
    case Parametrization::kVPrediction:
      return root_alpha * z32 - root_beta * out32;
    case Parametrization::kSample:
      return out32;
  }
  Fail("unknown prediction type");
}

DdimScheduler::DdimScheduler(const SchedulerConfig& config)
    : config_(config),
      schedule_(config),
      final_alpha_cumprod_(config.set_alpha_to_one ? 1.0f : schedule_.alphas_cumprod().front()) {
  if (config.kind != SolverKind::kDdim) {
    Fail("the options are those of ", SolverKindName(config.kind), ", not of ddim");
  }
}

std::vector<int64_t> DdimScheduler::Timesteps(int64_t steps,
                                              const std::optional<std::string>& spacing) const {
  const int64_t total = config_.num_train_timesteps;
  if (steps < 1 || steps > total) {
    Fail("steps is ", steps, ", not between 1 and num_train_timesteps = ", total);
  }
  const std::string& rule = spacing ? *spacing : config_.timestep_spacing;
  std::vector<int64_t> timesteps;
  if (rule == "linspace") {
    const std::vector<double> points = Linspace(0, static_cast<double>(total - 1), steps);
    for (size_t i = points.size(); i-- > 0;) {
      timesteps.push_back(static_cast<int64_t>(RoundHalfEven(points[i])));
    }
  } else if (rule == "leading") {
    for (int64_t i = steps - 1; i >= 0; --i) {
      timesteps.push_back(i * (total / steps) + config_.steps_offset);
    }
  } else if (rule == "trailing") {
    const auto end = static_cast<double>(total);
    const std::vector<double> points = Descend(end, end / static_cast<double>(steps));
    for (size_t i = 0; i < static_cast<size_t>(steps); ++i) {
      timesteps.push_back(static_cast<int64_t>(RoundHalfEven(points.at(i))) - 1);
    }
  } else {
    Fail("timestep spacing \"", rule, "\" is not one of leading, trailing, linspace");
  }
  for (const int64_t timestep : timesteps) {
    if (timestep < 0 || timestep >= total) {
      Fail("timestep ", timestep, " of ", steps, " steps (", rule, ", steps_offset ",
           config_.steps_offset, ") is not below num_train_timesteps = ", total);
    }
  }
  return timesteps;
}

at::Tensor DdimScheduler::Step(const at::Tensor& output, int64_t timestep, const at::Tensor& z,
                               int64_t steps) const {
  if (timestep < 0 || timestep >= config_.num_train_timesteps) {
    Fail("timestep ", timestep, " is not in [0, ", config_.num_train_timesteps, ")");
  }
  const int64_t previous = timestep - config_.num_train_timesteps / steps;
  const float alpha = alphas_cumprod()[static_cast<size_t>(timestep)];
  const float alpha_previous =
      previous >= 0 ? alphas_cumprod()[static_cast<size_t>(previous)] : final_alpha_cumprod_;
  const float beta = 1 - alpha;
  const float root_alpha = std::sqrt(alpha), root_beta = std::sqrt(beta);

  at::Tensor original, epsilon;
  switch (config_.prediction_type) {
    case Parametrization::kEpsilon:
      original = (z - root_beta * output) / root_alpha;
      epsilon = output;
      break;
    case Parametrization::kSample:
      original = output;
      epsilon = (z - root_alpha * original) / root_beta;
      break;
    case Parametrization::kVPrediction:
      original = root_alpha * z - root_beta * output;
      epsilon = root_alpha * output + root_beta * z;
      break;
  }
  // The direction is not derived anew from the clipped x0.
  if (config_.thresholding) {
    original =
        DynamicThreshold(original, config_.dynamic_thresholding_ratio, config_.sample_max_value);
  } else if (config_.clip_sample) {
    original = original.clamp(-config_.clip_sample_range, config_.clip_sample_range);
  }
  return std::sqrt(alpha_previous) * original + std::sqrt(1 - alpha_previous) * epsilon;
}

at::Tensor DdimScheduler::PredictX0(const at::Tensor& z, const at::Tensor& output,
                                    int64_t timestep) const {
  return PredictX0(z, output, timestep, config_.prediction_type);
}

at::Tensor DdimScheduler::PredictX0(const at::Tensor& z, const at::Tensor& output, int64_t timestep,
                                    Parametrization parametrization) const {
  if (timestep < 0 || timestep >= config_.num_train_timesteps) {
    Fail("timestep ", timestep, " is not in [0, ", config_.num_train_timesteps, ")");
  }
  return PredictOriginal(z, output, alphas_cumprod()[static_cast<size_t>(timestep)],
                         parametrization);
}

}  // namespace d2g::model

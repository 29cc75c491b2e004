#include "model/solver/ddim_scheduler.h"

#include <cmath>

#include "model/files/error.h"
#include "model/solver/ddim_timesteps.h"
#include "model/solver/dynamic_threshold.h"

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
  return DdimTimesteps(config_, steps, spacing);
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

#include "worker/model/ddim_scheduler.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "worker/model/error.h"
#include "worker/model/json_config.h"

namespace d2g::model {

namespace {

constexpr int64_t kMaxTrainTimesteps = 1'000'000;

std::vector<float> ToVector(const at::Tensor& tensor) {
  const at::Tensor contiguous = tensor.to(at::kFloat).contiguous();
  const float* data = contiguous.const_data_ptr<float>();
  return std::vector<float>(data, data + contiguous.numel());
}

// Betas of a cosine schedule: 1 - bar(t + 1) / bar(t), at most 0.999 (Nichol and Dhariwal 2021).
at::Tensor CosineBetas(int64_t count) {
  auto bar = [](double t) {
    const double c = std::cos((t + 0.008) / 1.008 * std::numbers::pi / 2);
    return c * c;
  };
  const double n = static_cast<double>(count);
  at::Tensor betas = at::empty({count}, at::kFloat);
  float* out = betas.mutable_data_ptr<float>();
  for (int64_t i = 0; i < count; ++i) {
    const double t = static_cast<double>(i);
    out[i] = static_cast<float>(std::min(1 - bar((t + 1) / n) / bar(t / n), 0.999));
  }
  return betas;
}

// Scales the schedule so that its last step is pure noise (Lin et al. 2023, algorithm 1).
at::Tensor RescaleToZeroTerminalSnr(const at::Tensor& betas) {
  const at::Tensor root = at::cumprod(1.0 - betas, 0).sqrt();
  const at::Tensor first = root[0].clone(), last = root[-1].clone();
  const at::Tensor scaled = (root - last) * (first / (first - last));
  const at::Tensor bar = scaled.square();
  const at::Tensor alphas = at::cat(
      {bar.narrow(0, 0, 1), bar.narrow(0, 1, bar.size(0) - 1) / bar.narrow(0, 0, bar.size(0) - 1)});
  return 1 - alphas;
}

at::Tensor MakeBetas(const DdimConfig& c) {
  if (!c.trained_betas.empty()) {
    return at::tensor(at::ArrayRef<double>(c.trained_betas), at::kDouble).to(at::kFloat);
  }
  if (c.beta_schedule == "linear") {
    return at::linspace(c.beta_start, c.beta_end, c.num_train_timesteps, at::kFloat);
  }
  if (c.beta_schedule == "scaled_linear") {
    return at::linspace(std::sqrt(c.beta_start), std::sqrt(c.beta_end), c.num_train_timesteps,
                        at::kFloat)
        .square();
  }
  return CosineBetas(c.num_train_timesteps);
}

// numpy's rounding: halves to even.
int64_t RoundHalfEven(double value) { return static_cast<int64_t>(std::nearbyint(value)); }

}  // namespace

Parametrization ParseParametrization(const std::string& name) {
  if (name == "epsilon") return Parametrization::kEpsilon;
  if (name == "v_prediction") return Parametrization::kVPrediction;
  if (name == "sample") return Parametrization::kSample;
  Fail("prediction type \"", name, "\" is not one of epsilon, v_prediction, sample");
}

std::string ParametrizationName(Parametrization parametrization) {
  switch (parametrization) {
    case Parametrization::kEpsilon:
      return "epsilon";
    case Parametrization::kVPrediction:
      return "v_prediction";
    case Parametrization::kSample:
      return "sample";
  }
  Fail("unknown prediction type");
}

DdimConfig DdimConfig::FromFile(const std::string& path) {
  return FromJson(ReadFileToString(path), path);
}

DdimConfig DdimConfig::FromJson(const std::string& text, const std::string& source) {
  const JsonConfig json(ParseJson(text, source), source);
  json.RequireDefault("thresholding", false);
  DdimConfig c;
  c.num_train_timesteps = json.IntAtLeast("num_train_timesteps", c.num_train_timesteps, 1);
  if (c.num_train_timesteps > kMaxTrainTimesteps) {
    json.FailAt("num_train_timesteps", "must be at most " + std::to_string(kMaxTrainTimesteps));
  }
  c.beta_start = json.Double("beta_start", c.beta_start);
  c.beta_end = json.Double("beta_end", c.beta_end);
  if (c.beta_start < 0 || c.beta_start >= 1) json.FailAt("beta_start", "must be in [0, 1)");
  if (c.beta_end < 0 || c.beta_end >= 1) json.FailAt("beta_end", "must be in [0, 1)");
  c.beta_schedule = json.String("beta_schedule", c.beta_schedule);
  if (c.beta_schedule != "linear" && c.beta_schedule != "scaled_linear" &&
      c.beta_schedule != "squaredcos_cap_v2") {
    json.FailAt("beta_schedule", "must be linear, scaled_linear or squaredcos_cap_v2");
  }
  if (json.Has("trained_betas")) {
    const nlohmann::json& betas = json.Get("trained_betas");
    if (!betas.is_array()) json.FailAt("trained_betas", "must be a list of numbers");
    for (const nlohmann::json& beta : betas) {
      if (!beta.is_number() || beta.get<double>() < 0 || beta.get<double>() > 1) {
        Fail(source, ": option \"trained_betas\" holds ", beta.dump(), ", not a number in [0, 1]");
      }
      c.trained_betas.push_back(beta.get<double>());
    }
    if (c.trained_betas.size() != static_cast<size_t>(c.num_train_timesteps)) {
      Fail(source, ": option \"trained_betas\" has ", c.trained_betas.size(),
           " entries, not num_train_timesteps = ", c.num_train_timesteps);
    }
  }
  c.clip_sample = json.Bool("clip_sample", c.clip_sample);
  c.clip_sample_range = json.Double("clip_sample_range", c.clip_sample_range);
  c.set_alpha_to_one = json.Bool("set_alpha_to_one", c.set_alpha_to_one);
  c.steps_offset = json.IntAtLeast("steps_offset", c.steps_offset, 0);
  const std::string prediction = json.String("prediction_type", "epsilon");
  try {
    c.prediction_type = ParseParametrization(prediction);
  } catch (const Error& error) {
    json.FailAt("prediction_type", error.what());
  }
  c.timestep_spacing = json.String("timestep_spacing", c.timestep_spacing);
  if (c.timestep_spacing != "leading" && c.timestep_spacing != "trailing" &&
      c.timestep_spacing != "linspace") {
    json.FailAt("timestep_spacing", "must be leading, trailing or linspace");
  }
  c.rescale_betas_zero_snr = json.Bool("rescale_betas_zero_snr", c.rescale_betas_zero_snr);
  return c;
}

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

DdimScheduler::DdimScheduler(const DdimConfig& config) : config_(config) {
  const at::NoGradGuard no_grad;
  at::Tensor betas = MakeBetas(config);
  if (config.rescale_betas_zero_snr) betas = RescaleToZeroTerminalSnr(betas);
  betas_ = ToVector(betas);
  alphas_cumprod_ = ToVector(at::cumprod(1.0 - betas, 0));
  final_alpha_cumprod_ = config.set_alpha_to_one ? 1.0f : alphas_cumprod_.front();
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
    const double last = static_cast<double>(total - 1);
    for (int64_t i = steps - 1; i >= 0; --i) {
      // numpy computes i * (last / (steps - 1)) and sets the end point exactly.
      const double value = steps == 1 ? 0
                           : i == steps - 1
                               ? last
                               : static_cast<double>(i) * (last / static_cast<double>(steps - 1));
      timesteps.push_back(RoundHalfEven(value));
    }
  } else if (rule == "leading") {
    for (int64_t i = steps - 1; i >= 0; --i) {
      timesteps.push_back(i * (total / steps) + config_.steps_offset);
    }
  } else if (rule == "trailing") {
    const double ratio = static_cast<double>(total) / static_cast<double>(steps);
    for (int64_t i = 0; i < steps; ++i) {
      // numpy's arange computes start + i * step.
      timesteps.push_back(
          RoundHalfEven(static_cast<double>(total) + static_cast<double>(i) * -ratio) - 1);
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
  const float alpha = alphas_cumprod_[timestep];
  const float alpha_previous = previous >= 0 ? alphas_cumprod_[previous] : final_alpha_cumprod_;
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
  if (config_.clip_sample) {
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
  return PredictOriginal(z, output, alphas_cumprod_[timestep], parametrization);
}

}  // namespace d2g::model

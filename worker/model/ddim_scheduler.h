// The DDIM scheduler (eta = 0: the deterministic probability-flow solver of the teacher).
// Source: Song et al. 2021 (arXiv 2010.02502), equations 12 and 16; diffusers 0.35.2,
// schedulers/scheduling_ddim.py.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <ATen/ATen.h>

namespace d2g::model {

// What the network's output means.
enum class Parametrization { kEpsilon, kVPrediction, kSample };

// "epsilon", "v_prediction", "sample"; throws Error for anything else.
Parametrization ParseParametrization(const std::string& name);
std::string ParametrizationName(Parametrization parametrization);

// Defaults are those of diffusers' DDIMScheduler, whatever class the file names.
struct DdimConfig {
  // Reads scheduler_config.json. Throws Error naming option, value and limit.
  static DdimConfig FromFile(const std::string& path);
  static DdimConfig FromJson(const std::string& text, const std::string& source);

  int64_t num_train_timesteps = 1000;
  double beta_start = 0.0001;
  double beta_end = 0.02;
  std::string beta_schedule = "linear";  // or "scaled_linear", "squaredcos_cap_v2"
  std::vector<double> trained_betas;     // when not empty, used instead of the schedule
  bool clip_sample = true;
  double clip_sample_range = 1.0;
  bool set_alpha_to_one = true;
  int64_t steps_offset = 0;
  Parametrization prediction_type = Parametrization::kEpsilon;
  std::string timestep_spacing = "leading";  // or "trailing", "linspace"
  bool rescale_betas_zero_snr = false;
};

// x0 in fp32 from a noisy latent z_t, the network's output (both [B, ...], any floating dtype) and
// alphas_cumprod[t]. epsilon: (z - sqrt(1-a) out) / sqrt(a); v: sqrt(a) z - sqrt(1-a) out; sample:
// out. Differentiable. Throws Error for epsilon with alpha_cumprod 0.
at::Tensor PredictOriginal(const at::Tensor& z, const at::Tensor& output, float alpha_cumprod,
                           Parametrization parametrization);

// Immutable; thread-safe.
class DdimScheduler {
 public:
  explicit DdimScheduler(const DdimConfig& config);

  // The timesteps of a run, in the order they are visited. `spacing` overrides the file's. Throws
  // Error unless 1 <= steps <= num_train_timesteps and every timestep is below
  // num_train_timesteps.
  std::vector<int64_t> Timesteps(int64_t steps,
                                 const std::optional<std::string>& spacing = std::nullopt) const;

  // z at `timestep` and the network's output there -> z at timestep - num_train_timesteps / steps
  // (integer division; below 0 the final alpha). fp32 arithmetic unless z is double.
  at::Tensor Step(const at::Tensor& output, int64_t timestep, const at::Tensor& z,
                  int64_t steps) const;

  // x0 in fp32 at `timestep`, not clipped; in the file's parametrization or in another one.
  at::Tensor PredictX0(const at::Tensor& z, const at::Tensor& output, int64_t timestep) const;
  at::Tensor PredictX0(const at::Tensor& z, const at::Tensor& output, int64_t timestep,
                       Parametrization parametrization) const;

  // fp32, num_train_timesteps of each.
  const std::vector<float>& alphas_cumprod() const { return alphas_cumprod_; }
  const std::vector<float>& betas() const { return betas_; }
  double init_noise_sigma() const { return 1.0; }
  const DdimConfig& config() const { return config_; }

 private:
  DdimConfig config_;
  std::vector<float> betas_;
  std::vector<float> alphas_cumprod_;
  float final_alpha_cumprod_ = 1;
};

}  // namespace d2g::model

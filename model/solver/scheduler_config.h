// The options of scheduler/scheduler_config.json.
// Source: diffusers 0.35.2, configuration_utils.py (from_config) and
// schedulers/scheduling_{ddim,euler_discrete,dpmsolver_multistep,heun_discrete}.py.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "model/solver/solver_names.h"

namespace d2g::model {

// What the network's output means.
enum class Parametrization { kEpsilon, kVPrediction, kSample };

// "epsilon", "v_prediction", "sample"; throws Error for anything else.
Parametrization ParseParametrization(const std::string& name);
std::string ParametrizationName(Parametrization parametrization);

// By solver_names.h. Throws Error naming them all for any other name.
SolverKind ParseSolverKind(const std::string& name);
std::string SolverKindName(SolverKind kind);

// Which noise levels a run visits.
enum class SigmaRule {
  kTimesteps,    // those of the timesteps
  kKarras,       // use_karras_sigmas
  kExponential,  // use_exponential_sigmas
  kLu,           // use_lu_lambdas
};

// Options under diffusers' names. An option that the solver's class does not have keeps its default
// here and is not read, whatever the file says.
struct SchedulerConfig {
  // Reads the file as class.from_config does with the class of `kind`: what it lacks comes from the
  // defaults of that class, not of the one that the file names, and a null flag is off. Throws
  // Error naming file, option, value and limit for what is not supported: noise that is drawn
  // during the run, flow matching, learned variances, beta sigmas.
  static SchedulerConfig FromFile(const std::string& path, SolverKind kind = SolverKind::kDdim);
  static SchedulerConfig FromJson(const std::string& text, const std::string& source,
                                  SolverKind kind = SolverKind::kDdim);
  // The defaults of the class; those below are DDIMScheduler's.
  static SchedulerConfig Defaults(SolverKind kind);

  // The same with another timestep_spacing. Throws Error unless it is one of solver_names.h.
  SchedulerConfig WithSpacing(const std::string& spacing) const;

  SolverKind kind = SolverKind::kDdim;
  int64_t num_train_timesteps = 1000;
  double beta_start = 0.0001;
  double beta_end = 0.02;
  std::string beta_schedule = "linear";  // or "scaled_linear", "squaredcos_cap_v2"; heun: "exp"
  std::vector<double> trained_betas;     // when not empty, used instead of the schedule
  bool rescale_betas_zero_snr = false;
  Parametrization prediction_type = Parametrization::kEpsilon;
  std::string timestep_spacing = "leading";  // or another of solver_names.h
  int64_t steps_offset = 0;

  // ddim and heun.
  bool clip_sample = true;
  double clip_sample_range = 1.0;
  // ddim and dpmpp_2m.
  bool thresholding = false;
  double dynamic_thresholding_ratio = 0.995;
  double sample_max_value = 1.0;
  // ddim.
  bool set_alpha_to_one = true;
  // euler, dpmpp_2m and heun. The two bounds are read by Karras' and the exponential rule; only
  // Euler's class declares them, but from_config hands them to the others too.
  SigmaRule sigma_rule = SigmaRule::kTimesteps;
  std::optional<double> sigma_min;
  std::optional<double> sigma_max;
  // euler and dpmpp_2m: "zero" or "sigma_min".
  std::string final_sigmas_type = "zero";
  // euler.
  bool log_linear_interpolation = false;  // interpolation_type
  bool continuous_timesteps = false;      // timestep_type
  // dpmpp_2m.
  int64_t solver_order = 2;
  std::string algorithm_type = "dpmsolver++";  // or "dpmsolver"
  std::string solver_type = "midpoint";        // or "heun"
  bool lower_order_final = true;
  bool euler_at_final = false;
  double lambda_min_clipped = -std::numeric_limits<double>::infinity();
};

}  // namespace d2g::model

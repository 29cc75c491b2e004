#include "model/solver/scheduler_config.h"

#include <algorithm>
#include <cmath>

#include "model/files/error.h"
#include "model/files/json_config.h"

namespace d2g::model {

namespace {

constexpr int64_t kMaxTrainTimesteps = 1'000'000;
constexpr int64_t kMaxSolverOrder = 3;

// Python's view of the file: a null flag is false, and keys that the writing class had filled in
// from its own defaults do not count.
nlohmann::json Effective(nlohmann::json json) {
  if (!json.is_object()) return json;
  for (const char* flag :
       {"clip_sample", "thresholding", "set_alpha_to_one", "rescale_betas_zero_snr",
        "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas",
        "use_flow_sigmas", "lower_order_final", "euler_at_final"}) {
    const auto it = json.find(flag);
    if (it != json.end() && it->is_null()) *it = false;
  }
  return WithoutDefaults(std::move(json));
}

class Reader {
 public:
  Reader(const std::string& text, const std::string& source, SolverKind kind)
      : json_(Effective(ParseJson(text, source)), source), c_(SchedulerConfig::Defaults(kind)) {}

  SchedulerConfig Read() {
    CheckClass();
    ReadBetas();
    ReadTimesteps();
    if (Is({SolverKind::kDdim, SolverKind::kHeun})) ReadClipping();
    if (Is({SolverKind::kDdim, SolverKind::kDpmpp2m})) ReadThresholding();
    if (c_.kind == SolverKind::kDdim) {
      c_.set_alpha_to_one = json_.Bool("set_alpha_to_one", c_.set_alpha_to_one);
    } else {
      ReadSigmas();
    }
    if (c_.kind == SolverKind::kEuler) ReadEuler();
    if (c_.kind == SolverKind::kDpmpp2m) ReadDpmSolver();
    return c_;
  }

 private:
  bool Is(const std::vector<SolverKind>& kinds) const {
    return std::find(kinds.begin(), kinds.end(), c_.kind) != kinds.end();
  }

  std::string OneOf(const char* key, const std::string& fallback,
                    const std::vector<std::string>& names) const {
    std::string value = json_.String(key, fallback);
    if (std::find(names.begin(), names.end(), value) == names.end()) {
      json_.FailAt(key, "must be one of " + Joined(names) + " for " + SolverKindName(c_.kind));
    }
    return value;
  }

  double Positive(const char* key, double fallback) const {
    const double value = json_.Double(key, fallback);
    if (!(value > 0) || !std::isfinite(value)) json_.FailAt(key, "must be above 0");
    return value;
  }

  // Other families integrate other equations; their files share too few options to tell.
  void CheckClass() const {
    const nlohmann::json& name = json_.Get("_class_name");
    if (!name.is_string()) return;
    const auto text = name.get<std::string>();
    for (const char* family : {"FlowMatch", "EDM", "CMStochastic"}) {
      if (text.starts_with(family)) {
        json_.FailAt("_class_name", "not supported (its noise schedule is another one)");
      }
    }
  }

  void ReadBetas() {
    c_.num_train_timesteps = json_.IntAtLeast("num_train_timesteps", c_.num_train_timesteps, 1);
    if (c_.num_train_timesteps > kMaxTrainTimesteps) {
      json_.FailAt("num_train_timesteps", "must be at most " + std::to_string(kMaxTrainTimesteps));
    }
    c_.beta_start = json_.Double("beta_start", c_.beta_start);
    c_.beta_end = json_.Double("beta_end", c_.beta_end);
    if (!(c_.beta_start >= 0 && c_.beta_start < 1)) {
      json_.FailAt("beta_start", "must be in [0, 1)");
    }
    if (!(c_.beta_end >= 0 && c_.beta_end < 1)) json_.FailAt("beta_end", "must be in [0, 1)");
    std::vector<std::string> schedules = {"linear", "scaled_linear", "squaredcos_cap_v2"};
    if (c_.kind == SolverKind::kHeun) schedules.push_back("exp");
    c_.beta_schedule = OneOf("beta_schedule", c_.beta_schedule, schedules);
    ReadTrainedBetas();
    if (c_.kind != SolverKind::kHeun) {
      c_.rescale_betas_zero_snr = json_.Bool("rescale_betas_zero_snr", false);
    }
  }

  void ReadTrainedBetas() {
    if (!json_.Has("trained_betas")) return;
    const nlohmann::json& betas = json_.Get("trained_betas");
    if (!betas.is_array()) json_.FailAt("trained_betas", "must be a list of numbers");
    for (const nlohmann::json& beta : betas) {
      if (!beta.is_number() || !(beta.get<double>() >= 0 && beta.get<double>() <= 1)) {
        Fail(json_.source(), ": option \"trained_betas\" holds ", beta.dump(),
             ", not a number in [0, 1]");
      }
      c_.trained_betas.push_back(beta.get<double>());
    }
    if (c_.trained_betas.size() != static_cast<size_t>(c_.num_train_timesteps)) {
      Fail(json_.source(), ": option \"trained_betas\" has ", c_.trained_betas.size(),
           " entries, not num_train_timesteps = ", c_.num_train_timesteps);
    }
  }

  void ReadTimesteps() {
    c_.timestep_spacing = OneOf("timestep_spacing", c_.timestep_spacing, TimestepSpacings());
    c_.steps_offset = json_.IntAtLeast("steps_offset", c_.steps_offset, 0);
    if (c_.steps_offset > kMaxTrainTimesteps) {
      json_.FailAt("steps_offset", "must be at most " + std::to_string(kMaxTrainTimesteps));
    }
    std::string prediction = json_.String("prediction_type", "epsilon");
    if (c_.kind == SolverKind::kEuler && prediction == "original_sample") prediction = "sample";
    try {
      c_.prediction_type = ParseParametrization(prediction);
    } catch (const Error& error) {
      json_.FailAt("prediction_type", error.what());
    }
  }

  void ReadClipping() {
    c_.clip_sample = json_.Bool("clip_sample", c_.clip_sample);
    c_.clip_sample_range = json_.Double("clip_sample_range", c_.clip_sample_range);
    if (c_.clip_sample && !(c_.clip_sample_range >= 0)) {
      json_.FailAt("clip_sample_range", "must be at least 0");
    }
  }

  void ReadThresholding() {
    c_.thresholding = json_.Bool("thresholding", c_.thresholding);
    c_.dynamic_thresholding_ratio =
        json_.Double("dynamic_thresholding_ratio", c_.dynamic_thresholding_ratio);
    if (c_.thresholding &&
        !(c_.dynamic_thresholding_ratio >= 0 && c_.dynamic_thresholding_ratio <= 1)) {
      json_.FailAt("dynamic_thresholding_ratio", "must be in [0, 1]");
    }
    c_.sample_max_value = json_.Double("sample_max_value", c_.sample_max_value);
    if (c_.thresholding) Positive("sample_max_value", c_.sample_max_value);
  }

  void ReadSigmas() {
    json_.RequireDefault("use_beta_sigmas", false);
    const bool karras = json_.Bool("use_karras_sigmas", false);
    const bool exponential = json_.Bool("use_exponential_sigmas", false);
    const bool lu = c_.kind == SolverKind::kDpmpp2m && json_.Bool("use_lu_lambdas", false);
    if (karras && exponential) {
      json_.FailAt("use_exponential_sigmas", "excludes use_karras_sigmas");
    }
    c_.sigma_rule = karras        ? SigmaRule::kKarras
                    : lu          ? SigmaRule::kLu
                    : exponential ? SigmaRule::kExponential
                                  : SigmaRule::kTimesteps;
    if (c_.sigma_rule != SigmaRule::kTimesteps && c_.num_train_timesteps < 2) {
      json_.FailAt("num_train_timesteps", "must be at least 2 to place sigmas between timesteps");
    }
    if (json_.Has("sigma_min")) c_.sigma_min = Positive("sigma_min", 0);
    if (json_.Has("sigma_max")) c_.sigma_max = Positive("sigma_max", 0);
    if (c_.kind != SolverKind::kHeun) {
      c_.final_sigmas_type =
          OneOf("final_sigmas_type", c_.final_sigmas_type, {"zero", "sigma_min"});
    }
  }

  void ReadEuler() {
    c_.log_linear_interpolation =
        OneOf("interpolation_type", "linear", {"linear", "log_linear"}) == "log_linear";
    c_.continuous_timesteps =
        OneOf("timestep_type", "discrete", {"discrete", "continuous"}) == "continuous";
  }

  void ReadDpmSolver() {
    json_.RequireDefault("use_flow_sigmas", false);
    c_.solver_order = json_.IntAtLeast("solver_order", c_.solver_order, 1);
    if (c_.solver_order > kMaxSolverOrder) {
      json_.FailAt("solver_order", "must be at most " + std::to_string(kMaxSolverOrder));
    }
    c_.algorithm_type =
        OneOf("algorithm_type", c_.algorithm_type, {"dpmsolver++", "dpmsolver", "deis"});
    if (c_.algorithm_type != "dpmsolver++" && c_.final_sigmas_type == "zero") {
      json_.FailAt("algorithm_type", "needs final_sigmas_type sigma_min, not zero");
    }
    // DEIS and UniPC files are read as the nearest that this class has.
    if (c_.algorithm_type == "deis") c_.algorithm_type = "dpmsolver++";
    c_.solver_type =
        OneOf("solver_type", c_.solver_type, {"midpoint", "heun", "logrho", "bh1", "bh2"});
    if (c_.solver_type != "heun") c_.solver_type = "midpoint";
    c_.lower_order_final = json_.Bool("lower_order_final", c_.lower_order_final);
    c_.euler_at_final = json_.Bool("euler_at_final", c_.euler_at_final);
    c_.lambda_min_clipped = json_.Double("lambda_min_clipped", c_.lambda_min_clipped);
    const std::string variance = json_.String("variance_type", "");
    if (variance == "learned" || variance == "learned_range") {
      json_.FailAt("variance_type", "not supported (the network's output must be the mean alone)");
    }
  }

  JsonConfig json_;
  SchedulerConfig c_;
};

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

SolverKind ParseSolverKind(const std::string& name) {
  for (const SolverName& known : kSolverNames) {
    if (name == known.name) return known.kind;
  }
  Fail("solver \"", name, "\" is not one of ", Joined(SolverNames()));
}

std::string SolverKindName(SolverKind kind) {
  for (const SolverName& known : kSolverNames) {
    if (kind == known.kind) return std::string(known.name);
  }
  Fail("unknown solver");
}

SchedulerConfig SchedulerConfig::Defaults(SolverKind kind) {
  SchedulerConfig c;
  c.kind = kind;
  if (kind != SolverKind::kDdim) {
    c.timestep_spacing = "linspace";
    c.clip_sample = false;
  }
  if (kind == SolverKind::kHeun) {
    c.beta_start = 0.00085;
    c.beta_end = 0.012;
  }
  return c;
}

SchedulerConfig SchedulerConfig::WithSpacing(const std::string& spacing) const {
  const std::vector<std::string> known = TimestepSpacings();
  if (std::find(known.begin(), known.end(), spacing) == known.end()) {
    Fail("timestep spacing \"", spacing, "\" is not one of ", Joined(known));
  }
  SchedulerConfig changed = *this;
  changed.timestep_spacing = spacing;
  return changed;
}

SchedulerConfig SchedulerConfig::FromFile(const std::string& path, SolverKind kind) {
  return FromJson(ReadFileToString(path), path, kind);
}

SchedulerConfig SchedulerConfig::FromJson(const std::string& text, const std::string& source,
                                          SolverKind kind) {
  return Reader(text, source, kind).Read();
}

}  // namespace d2g::model

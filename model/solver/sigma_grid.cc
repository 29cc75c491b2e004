#include "model/solver/sigma_grid.h"

#include <algorithm>
#include <cmath>

#include "model/files/error.h"

namespace d2g::model {

namespace {

// numpy's fp32 logarithm on processors with fused multiply-add: e ln 2 + P(m - 1) / Q(m - 1) for
// x = m 2^e with m in [sqrt(1/2), sqrt(2)). Timesteps between two of the table are cut to whole
// numbers, so the last bit decides which one the network is told.
float NumpyLog(float x) {
  constexpr float kP[] = {0.0f,
                          9.999999999999998702752e-01f,
                          2.112677543073053063722e+00f,
                          1.480000633576506585156e+00f,
                          3.808837741388407920751e-01f,
                          2.589979117907922693523e-02f};
  constexpr float kQ[] = {1.0f,
                          2.612677543073109236779e+00f,
                          2.453006071784736363091e+00f,
                          9.864942958519418960339e-01f,
                          1.546476374983906719538e-01f,
                          5.875095403124574342950e-03f};
  constexpr float kRootHalf = 0.70710678118654752f;
  constexpr float kLn2 = 0.69314718055994531f;
  int exponent = 0;
  float m = std::frexp(x, &exponent);
  if (m < kRootHalf) {
    m *= 2;
    --exponent;
  }
  m -= 1;
  float p = kP[5], q = kQ[5];
  for (int k = 4; k >= 0; --k) {
    p = std::fma(p, m, kP[k]);
    q = std::fma(q, m, kQ[k]);
  }
  return std::fma(static_cast<float>(exponent), kLn2, p / q);
}

std::vector<float> Logs(const std::vector<float>& values) {
  std::vector<float> logs(values.size());
  std::transform(values.begin(), values.end(), logs.begin(), NumpyLog);
  return logs;
}

// numpy.interp at `x` of a table over 0, 1, 2...
double Interpolate(double x, const std::vector<float>& table) {
  const auto last = static_cast<double>(table.size() - 1);
  if (!(x > 0)) return table.front();
  if (x >= last) return table.back();
  const auto j = static_cast<size_t>(x);
  const double low = table[j], high = table[j + 1];
  return (high - low) * (x - static_cast<double>(j)) + low;
}

// Where sigma lies in the table, as a fraction of its two neighbours' logarithms.
double TimestepOf(double sigma, const std::vector<float>& log_sigmas) {
  const double log_sigma = std::log(std::max(sigma, 1e-10));
  size_t low = 0;
  for (size_t i = log_sigmas.size(); i-- > 0;) {
    if (log_sigma - log_sigmas[i] >= 0) {
      low = i;
      break;
    }
  }
  low = std::min(low, log_sigmas.size() - 2);
  const float gap = log_sigmas[low] - log_sigmas[low + 1];
  const double w = std::clamp((log_sigmas[low] - log_sigma) / gap, 0.0, 1.0);
  return (1 - w) * static_cast<double>(low) + w * static_cast<double>(low + 1);
}

std::vector<double> KarrasSigmas(double sigma_max, double sigma_min, int64_t steps) {
  constexpr double kRho = 7.0;
  const double from = std::pow(sigma_max, 1 / kRho), to = std::pow(sigma_min, 1 / kRho);
  std::vector<double> sigmas = Linspace(0, 1, steps);
  for (double& sigma : sigmas) sigma = std::pow(from + sigma * (to - from), kRho);
  return sigmas;
}

std::vector<double> ExponentialSigmas(double sigma_max, double sigma_min, int64_t steps) {
  std::vector<double> sigmas = Linspace(std::log(sigma_max), std::log(sigma_min), steps);
  for (double& sigma : sigmas) sigma = std::exp(sigma);
  return sigmas;
}

// Even steps of log sigma between the ends of the table.
std::vector<double> LuSigmas(const std::vector<float>& log_sigmas, int64_t steps) {
  const double from = log_sigmas.back(), to = log_sigmas.front();
  std::vector<double> sigmas = Linspace(0, 1, steps);
  for (double& sigma : sigmas) sigma = std::exp(from + sigma * (to - from));
  return sigmas;
}

// Sigmas by the file's rule between two bounds that the file may override.
std::vector<double> SigmasByRule(const SchedulerConfig& config,
                                 const std::vector<float>& log_sigmas, double sigma_max,
                                 double sigma_min, int64_t steps) {
  const double from = config.sigma_max.value_or(sigma_max);
  const double to = config.sigma_min.value_or(sigma_min);
  switch (config.sigma_rule) {
    case SigmaRule::kKarras:
      return KarrasSigmas(from, to, steps);
    case SigmaRule::kExponential:
      return ExponentialSigmas(from, to, steps);
    case SigmaRule::kLu:
      return LuSigmas(log_sigmas, steps);
    case SigmaRule::kTimesteps:
      break;
  }
  Fail("no rule for sigmas");
}

std::vector<double> TimestepsOf(const std::vector<double>& sigmas,
                                const std::vector<float>& log_sigmas) {
  std::vector<double> timesteps;
  timesteps.reserve(sigmas.size());
  for (const double sigma : sigmas) timesteps.push_back(TimestepOf(sigma, log_sigmas));
  return timesteps;
}

void CheckSteps(int64_t steps) {
  if (steps < 1) Fail("steps is ", steps, ", not at least 1");
}

const char* RuleName(SigmaRule rule) {
  switch (rule) {
    case SigmaRule::kKarras:
      return "use_karras_sigmas";
    case SigmaRule::kExponential:
      return "use_exponential_sigmas";
    case SigmaRule::kLu:
      return "use_lu_lambdas";
    case SigmaRule::kTimesteps:
      break;
  }
  Fail("no rule for sigmas");
}

void CheckGrid(const SchedulerConfig& config, const SigmaGrid& grid, int64_t steps) {
  if (grid.timesteps.empty()) {
    Fail("lambda_min_clipped = ", config.lambda_min_clipped, " leaves no timestep");
  }
  // The reference finds its place by the first timestep and would run past the end.
  if (std::count(grid.timesteps.begin(), grid.timesteps.end(), grid.timesteps.front()) > 1) {
    if (config.sigma_rule != SigmaRule::kTimesteps) {
      Fail(RuleName(config.sigma_rule), " puts several of ", steps, " noise levels at timestep ",
           grid.timesteps.front(), " of the ",
           config.trained_betas.empty() ? config.beta_schedule : "listed",
           " betas, and no solver visits one twice: leave the option out, or try fewer steps");
    }
    Fail(steps, " steps are too many for num_train_timesteps = ", config.num_train_timesteps,
         ": timestep ", grid.timesteps.front(), " would come twice");
  }
  for (size_t i = 0; i < grid.timesteps.size(); ++i) {
    if (!(grid.sigmas[i] > 0) || !std::isfinite(grid.sigmas[i])) {
      Fail("the noise level at timestep ", grid.timesteps[i], " is ", grid.sigmas[i],
           ", not a positive number: the betas of the scheduler leave no signal or no noise there");
    }
  }
}

float FinalSigma(const SchedulerConfig& config, const std::vector<float>& sigmas) {
  return config.final_sigmas_type == "sigma_min" ? sigmas.front() : 0.0f;
}

// Evenly spaced timesteps below `end`, largest first; not rounded for linspace.
std::vector<double> SpacedTimesteps(const SchedulerConfig& config, int64_t steps) {
  const int64_t total = config.num_train_timesteps;
  std::vector<double> timesteps;
  if (config.timestep_spacing == "linspace") {
    timesteps = Linspace(0, static_cast<double>(total - 1), steps);
    std::reverse(timesteps.begin(), timesteps.end());
  } else if (config.timestep_spacing == "leading") {
    for (int64_t i = steps - 1; i >= 0; --i) {
      timesteps.push_back(static_cast<double>(i * (total / steps) + config.steps_offset));
    }
  } else {
    const auto end = static_cast<double>(total);
    timesteps = Descend(end, end / static_cast<double>(steps));
    for (double& timestep : timesteps) timestep = RoundHalfEven(timestep) - 1;
  }
  for (double& timestep : timesteps) timestep = static_cast<float>(timestep);
  return timesteps;
}

// N + 1 points, of which the smallest is where the run ends.
std::vector<double> DpmTimesteps(const SchedulerConfig& config, const NoiseSchedule& schedule,
                                 int64_t steps) {
  std::vector<float> lambdas = schedule.Lambdas();
  std::reverse(lambdas.begin(), lambdas.end());
  const auto clipped = std::lower_bound(lambdas.begin(), lambdas.end(),
                                        static_cast<float>(config.lambda_min_clipped)) -
                       lambdas.begin();
  const int64_t end = config.num_train_timesteps - clipped;
  if (end < 1) Fail("lambda_min_clipped = ", config.lambda_min_clipped, " leaves no timestep");
  std::vector<double> timesteps;
  if (config.timestep_spacing == "linspace") {
    const std::vector<double> points = Linspace(0, static_cast<double>(end - 1), steps + 1);
    for (size_t i = points.size() - 1; i > 0; --i) timesteps.push_back(RoundHalfEven(points[i]));
  } else if (config.timestep_spacing == "leading") {
    for (int64_t i = steps; i > 0; --i) {
      timesteps.push_back(static_cast<double>(i * (end / (steps + 1)) + config.steps_offset));
    }
  } else {
    const double ratio =
        static_cast<double>(config.num_train_timesteps) / static_cast<double>(steps);
    for (const double point : Descend(static_cast<double>(end), ratio)) {
      timesteps.push_back(RoundHalfEven(point) - 1);
    }
  }
  return timesteps;
}

}  // namespace

std::vector<double> Linspace(double start, double stop, int64_t count) {
  std::vector<double> points(static_cast<size_t>(count), start);
  const double delta = stop - start;
  const double step = count > 1 ? delta / static_cast<double>(count - 1) : 0;
  for (size_t i = 1; i < points.size(); ++i) points[i] = static_cast<double>(i) * step + start;
  if (count > 1) points.back() = stop;
  return points;
}

std::vector<double> Descend(double start, double step) {
  const auto count = static_cast<int64_t>(std::ceil(start / step));
  // Points are counted from the rounded first difference.
  const double difference = (start - step) - start;
  std::vector<double> points;
  for (int64_t i = 0; i < count; ++i) {
    points.push_back(start + static_cast<double>(i) * difference);
  }
  return points;
}

double RoundHalfEven(double value) { return std::nearbyint(value); }

SigmaGrid MakeEulerGrid(const SchedulerConfig& config, const NoiseSchedule& schedule,
                        int64_t steps) {
  CheckSteps(steps);
  const std::vector<float> table = schedule.Sigmas();
  const std::vector<float> log_table = Logs(table);
  SigmaGrid grid;
  grid.timesteps = SpacedTimesteps(config, steps);
  std::vector<double> sigmas;
  if (config.log_linear_interpolation) {
    for (const float level : Linspace32(log_table.back(), log_table.front(), steps + 1)) {
      sigmas.push_back(std::exp(level));
    }
  } else {
    for (const double timestep : grid.timesteps) sigmas.push_back(Interpolate(timestep, table));
  }
  if (config.sigma_rule != SigmaRule::kTimesteps) {
    sigmas = SigmasByRule(config, log_table, sigmas.front(), sigmas.back(), steps);
    grid.timesteps = TimestepsOf(sigmas, log_table);
    for (double& timestep : grid.timesteps) timestep = static_cast<float>(timestep);
  }
  grid.sigmas.assign(sigmas.begin(), sigmas.end());
  grid.sigmas.push_back(FinalSigma(config, table));
  if (config.continuous_timesteps && config.prediction_type == Parametrization::kVPrediction) {
    grid.timesteps.clear();
    for (size_t i = 0; i + 1 < grid.sigmas.size(); ++i) {
      grid.timesteps.push_back(0.25f * std::log(grid.sigmas[i]));
    }
  }
  CheckGrid(config, grid, steps);
  return grid;
}

SigmaGrid MakeDpmGrid(const SchedulerConfig& config, const NoiseSchedule& schedule, int64_t steps) {
  CheckSteps(steps);
  const std::vector<float> table = schedule.Sigmas();
  const std::vector<float> log_table = Logs(table);
  SigmaGrid grid;
  if (config.sigma_rule == SigmaRule::kTimesteps) {
    grid.timesteps = DpmTimesteps(config, schedule, steps);
    for (const double timestep : grid.timesteps) {
      grid.sigmas.push_back(static_cast<float>(Interpolate(timestep, table)));
    }
  } else {
    const std::vector<double> sigmas =
        SigmasByRule(config, log_table, table.back(), table.front(), steps);
    grid.sigmas.assign(sigmas.begin(), sigmas.end());
    grid.timesteps = TimestepsOf(sigmas, log_table);
    const bool round =
        config.sigma_rule != SigmaRule::kExponential && config.beta_schedule != "squaredcos_cap_v2";
    for (double& timestep : grid.timesteps) {
      timestep = round ? RoundHalfEven(timestep) : std::trunc(timestep);
    }
  }
  grid.sigmas.push_back(FinalSigma(config, table));
  CheckGrid(config, grid, steps);
  return grid;
}

}  // namespace d2g::model

// What solvers and timestep spacings are called: in job files, in flags and in errors. Each name
// stands here, once; what it does stands in the solver of that name. Needs nothing else.
#pragma once

#include <iterator>
#include <string>
#include <string_view>
#include <vector>

namespace d2g::model {

// The solvers, each as one class of diffusers runs it.
enum class SolverKind {
  kDdim,     // DDIMScheduler with eta 0
  kEuler,    // EulerDiscreteScheduler without churn
  kDpmpp2m,  // DPMSolverMultistepScheduler
  kHeun,     // HeunDiscreteScheduler
};

struct SolverName {
  SolverKind kind;
  std::string_view name;
};
inline constexpr SolverName kSolverNames[] = {
    {SolverKind::kDdim, "ddim"},
    {SolverKind::kEuler, "euler"},
    {SolverKind::kDpmpp2m, "dpmpp_2m"},
    {SolverKind::kHeun, "heun"},
};

// Which of the training's timesteps a run takes, by diffusers' names.
inline constexpr std::string_view kTimestepSpacings[] = {"trailing", "leading", "linspace"};

inline std::vector<std::string> SolverNames() {
  std::vector<std::string> names;
  for (const SolverName& solver : kSolverNames) names.emplace_back(solver.name);
  return names;
}

inline std::vector<std::string> TimestepSpacings() {
  return {std::begin(kTimestepSpacings), std::end(kTimestepSpacings)};
}

// "a, b, c".
inline std::string Joined(const std::vector<std::string>& names) {
  std::string joined;
  for (const std::string& name : names) joined += (joined.empty() ? "" : ", ") + name;
  return joined;
}

}  // namespace d2g::model

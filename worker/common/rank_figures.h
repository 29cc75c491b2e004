// The figures that a rank reports: each name and what it means stand here, once. Agents export them
// as d2g_rank_{name}, docs/metrics.md lists them.
#pragma once

#include <string>
#include <string_view>

namespace d2g {

// A figure's name and help.
struct RankFigure {
  std::string_view name;
  std::string_view help;
};

inline constexpr RankFigure kRankFigures[] = {
    // Losses, means over the global batch.
    {"loss", "Loss of G in all"},
    {"loss_regression", "Pseudo-Huber term of G, unweighted"},
    {"loss_mse", "Mean squared error of G, unweighted"},
    {"loss_features", "Distance in the latent network's features, unweighted"},
    {"loss_g_adv", "Adversarial term of G, unweighted"},
    {"loss_d", "Loss of D"},
    {"d_accuracy", "Share of the batch that D tells right"},
    // Updates.
    {"grad_norm_g", "Norm of G's gradient before clipping"},
    {"grad_norm_d", "Norm of D's gradient before clipping"},
    {"learning_rate", "Learning rate of G"},
    {"not_finite_total", "Steps skipped because of NaN or infinity"},
    // Progress.
    {"step", "Optimiser steps done"},
    {"epoch", "Epoch of the batch order"},
    {"samples_total", "Samples trained on"},
    {"skipped_total", "Samples left out because their triple was bad"},
    {"uncommitted_steps", "Steps done since the last committed checkpoint; rank 0 alone"},
    // Time.
    {"step_seconds", "Time of the last step"},
    {"step_seconds_total", "Time in steps, waiting included"},
    {"data_wait_seconds_total", "Time that steps waited for triples"},
    {"allreduce_seconds_total", "Time in all-reduce"},
    {"checkpoint_seconds", "Time that the last checkpoint took"},
};

// The name of a figure of the table. A literal that is not in the table does not compile.
class FigureName {
 public:
  consteval FigureName(const char* name) : name_(Find(name)) {}  // NOLINT: a literal is a name

  operator std::string() const { return std::string(name_); }  // NOLINT: what maps are keyed by

 private:
  static consteval std::string_view Find(std::string_view name) {
    for (const RankFigure& figure : kRankFigures) {
      if (figure.name == name) return figure.name;
    }
    throw "not in kRankFigures";
  }

  std::string_view name_;
};

// The help text of a figure; for an unknown name, a text that says that it is unknown.
constexpr std::string_view RankFigureHelp(std::string_view name) {
  for (const RankFigure& figure : kRankFigures) {
    if (figure.name == name) return figure.help;
  }
  return "A figure that this agent's version does not know";
}

}  // namespace d2g

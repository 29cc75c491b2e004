// The subcommands of d2g-model. Each Add function declares flags and sets `*action` when its
// subcommand is chosen; the action throws model::Error for bad input.
#pragma once

#include <functional>

#include <CLI/CLI.hpp>

namespace d2g::model {

using Action = std::function<void()>;

// Pictures from prompts: a PNG grid.
void AddGenerate(CLI::App& app, Action* action);
// Latents from prompts and noise: what a simulation worker computes.
void AddTeacher(CLI::App& app, Action* action);
// One network on given tensors.
void AddComponent(CLI::App& app, Action* action);
// What a model folder is.
void AddInspect(CLI::App& app, Action* action);
// A teacher tried on a few trajectories.
void AddCheck(CLI::App& app, Action* action);
// What LibTorch can use on this machine, as JSON for d2g doctor.
void AddProbe(CLI::App& app, Action* action);

}  // namespace d2g::model

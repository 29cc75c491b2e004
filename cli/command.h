// How subcommands plug into d2g: each registers its flags and, when chosen, leaves what to run.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

#include "absl/status/statusor.h"

namespace d2g::cli {

// What the command line chose; returns the exit code, or an error that main prints.
using Action = std::function<absl::StatusOr<int>()>;

// Each adds a subcommand to `app`; its parse callback sets *action. Both must outlive the run.
void AddUp(CLI::App& app, Action* action);
void AddDown(CLI::App& app, Action* action);
void AddSubmit(CLI::App& app, Action* action);
void AddWatch(CLI::App& app, Action* action);
void AddJobs(CLI::App& app, Action* action);
void AddDescribe(CLI::App& app, Action* action);
// cancel, pause and resume.
void AddSteering(CLI::App& app, Action* action);
void AddVerify(CLI::App& app, Action* action);
void AddDoctor(CLI::App& app, Action* action);
// generate, teacher, component and model.
void AddModelCommands(CLI::App& app, Action* action);

// Prints "d2g: MESSAGE" on stderr.
void PrintError(const std::string& message);

}  // namespace d2g::cli

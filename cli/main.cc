// d2g: the command line of the service.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "cli/command.h"
#include "cli/exit_code.h"
#include "services/common/utf8.h"
#include "services/common/version.h"

namespace d2g::cli {
namespace {

constexpr char kFooter[] =
    "The coordinator is the one given by --coordinator, else the local cluster's of --data-dir\n"
    "where that is given, else $D2G_COORDINATOR, else the local cluster's.\n"
    "Exit codes: 0 done, 1 failed, 2 wrong command line, 3 bad input, 4 cannot reach,\n"
    "5 the job failed or was cancelled.";

// What is wrong with the command line. A word that nothing takes is named before anything that is
// missing for want of it.
std::string Problem(const CLI::App& app, const CLI::ParseError& error) {
  std::vector<std::string> unknown = app.remaining(/*recurse=*/true);
  std::erase(unknown, "--");
  if (unknown.empty()) return error.what();
  const bool is_flag = unknown.front().starts_with("-");
  const bool has_command = !app.get_subcommands().empty();
  return absl::StrCat(is_flag       ? "unknown flag"
                      : has_command ? "unexpected argument"
                                    : "unknown command",
                      " \"", unknown.front(), "\"");
}

// The exit code, once all that was printed is out: a full disk shows here at the latest.
int AfterOutput(int code) {
  std::cout.flush();
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0 && std::cout) return code;
  PrintError("cannot write to the standard output");
  return code == kExitOk ? kExitFailure : code;
}

int Main(int argc, char** argv) {
  CLI::App app("Distils text-to-image diffusion teachers into one-step students.", "d2g");
  app.set_version_flag("--version", common::Version());
  app.require_subcommand(1);
  app.footer(kFooter);
  Action action;
  for (const auto add : {AddUp, AddDown, AddSubmit, AddWatch, AddJobs, AddDescribe, AddSteering,
                         AddVerify, AddDoctor, AddModelCommands}) {
    add(app, &action);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    PrintError(Problem(app, error) + "; see d2g --help");
    return kExitUsage;
  }
  const absl::StatusOr<int> code = action();
  if (code.ok()) return *code;
  PrintError(std::string(code.status().message()));
  return common::ExitCodeOf(code.status());
}

}  // namespace

void PrintError(const std::string& message) {
  // Lines are ours, as when the end of a log is shown; what is in them need not be.
  std::vector<std::string> lines = absl::StrSplit(message, '\n');
  for (std::string& line : lines) line = common::WithoutControls(line);
  std::fprintf(stderr, "d2g: %s\n", absl::StrJoin(lines, "\n").c_str());
}

}  // namespace d2g::cli

int main(int argc, char** argv) { return d2g::cli::AfterOutput(d2g::cli::Main(argc, argv)); }

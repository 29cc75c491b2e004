// One child process.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/common/launch.h"

namespace d2g::cli {

// What to run.
struct Command {
  // Program (a path) and arguments.
  std::vector<std::string> argv;
  // stdout and stderr are appended to this file.
  std::string log_path;
};

// Starts `command` as common::Launch does, which says what it inherits and that it dies with the
// calling thread. INVALID_ARGUMENT names a log that cannot be written.
absl::StatusOr<pid_t> Spawn(const Command& command);

// How the process ended, if it did; reaps it. Never blocks. A pid that is no child of ours counts
// as ended.
std::optional<common::ExitStatus> Poll(pid_t pid);

// The last `lines` lines of a file, without a final newline; empty when it cannot be read.
std::string TailOf(const std::string& path, int lines);

}  // namespace d2g::cli

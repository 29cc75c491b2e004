// One child process.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace d2g::cli {

// What to run.
struct Command {
  // Program (a path) and arguments.
  std::vector<std::string> argv;
  // stdout and stderr are appended to this file.
  std::string log_path;
};

// How a process ended.
struct ProcessEnd {
  // Exit code, or 128 + signal.
  int code = 0;
  // The signal that ended it; 0 for an exit.
  int signal = 0;

  // "exit code 3" or "signal 9 (Killed)".
  std::string ToString() const;
};

// Starts `command` in its own process group, with default signal actions, an empty signal mask and
// stdin from /dev/null. It gets SIGKILL when the thread that called Spawn ends, so that nothing
// outlives its supervisor. Returns once the program runs; NOT_FOUND or INTERNAL names what could
// not be executed or opened. Call it from a process without threads that hold locks (it forks).
absl::StatusOr<pid_t> Spawn(const Command& command);

// How the process ended, if it did; reaps it. Never blocks. A pid that is no child of ours counts
// as ended.
std::optional<ProcessEnd> Poll(pid_t pid);

// The last `lines` lines of a file, without a final newline; empty when it cannot be read.
std::string TailOf(const std::string& path, int lines);

}  // namespace d2g::cli

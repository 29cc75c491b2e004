// Real child processes in tests.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/time/time.h"

namespace d2g::testing {

// What ended a process.
struct ExitResult {
  // Exit code, or -signal; kStillRunning when the wait timed out.
  int code = 0;
  // Everything it wrote on stdout and stderr.
  std::string output;
};

// A child with stdout and stderr together in a file. Killed (SIGKILL) and reaped at destruction,
// and by the kernel when the test dies. Not thread-safe.
class Process {
 public:
  static constexpr int kStillRunning = 1 << 20;

  // Starts `arguments[0]`; a name without a slash is looked up in $D2G_BIN_DIR.
  explicit Process(std::vector<std::string> arguments);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  // Sends a signal; nothing once it has been reaped.
  void Signal(int signal);
  // Waits for the end.
  ExitResult Wait(absl::Duration timeout = absl::Seconds(30));
  bool Running();
  // What it has written so far.
  std::string Output() const;
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
  bool reaped_ = false;
  int code_ = 0;
  std::string output_path_;
};

// Runs to the end.
ExitResult RunProcess(std::vector<std::string> arguments,
                      absl::Duration timeout = absl::Seconds(30));

// Absolute path of a file of the source tree ($D2G_SOURCE_DIR).
std::string SourcePath(const std::string& relative);

// The interpreter of an environment that tools/bootstrap.sh made: "venv" or "venv-newest".
std::string Python(const std::string& environment = "venv");

}  // namespace d2g::testing

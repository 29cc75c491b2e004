// Starts other programs: the one place that forks, so that all of them inherit the same.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace d2g::common {

// How a process ended.
struct ExitStatus {
  // Exit code, or the signal's number when `signalled`.
  int value = 0;
  bool signalled = false;

  // From what waitpid stores.
  static ExitStatus FromWait(int status);
  // Whether it left by itself with this exit code.
  bool Exited(int code) const { return !signalled && value == code; }
  // "exit code 1" or "signal 9 (Killed)".
  std::string ToString() const;
};

// The status descriptor's number in the program.
inline constexpr int kStatusFd = 3;

struct LaunchOptions {
  // argv[0] is the program's path, or a name that is looked up in PATH.
  std::vector<std::string> argv;
  // "NAME=value", added to our environment or in the place of what is there.
  std::vector<std::string> environment;
  // Descriptors of ours that the program gets, both required; they stay open here.
  int stdout_fd = -1;
  int stderr_fd = -1;
  // Becomes the program's kStatusFd; -1: it has none.
  int status_fd = -1;
};

// Returns the program's pid once exec succeeded; INVALID_ARGUMENT, NOT_FOUND or INTERNAL name the
// program and the reason, and then there is no process left to wait for.
//
// The program has default signal actions, an empty signal mask, its own process group, stdin from
// /dev/null, and no descriptors but the named ones. The kernel kills it (SIGKILL) when the thread
// that called Launch ends: that thread must live as long as the program shall. The caller reaps it.
// Thread-safe.
absl::StatusOr<pid_t> Launch(const LaunchOptions& options);

}  // namespace d2g::common

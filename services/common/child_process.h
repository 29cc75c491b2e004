// A child process that dies with us, with its output and an optional status pipe read line by line.
#pragma once

#include <sys/types.h>

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "services/common/launch.h"

namespace d2g::common {

struct ChildOptions {
  // argv[0] is the program's path, or a name that is looked up in PATH.
  std::vector<std::string> argv;
  // "NAME=value", added to our environment or in the place of what is there.
  std::vector<std::string> environment;
  // Opens a pipe whose end the child has as descriptor kStatusFd.
  bool status_pipe = false;
  // Called for each line, without its newline, on the child's own monitor thread; must not block
  // and must not destroy the ChildProcess. May be empty. Output is stdout and stderr together.
  std::function<void(std::string_view)> on_output_line;
  std::function<void(std::string_view)> on_status_line;
  // Called once, last, when exit_status() is known.
  std::function<void()> on_exit;
};

// Output lines kept for the report on a death.
inline constexpr size_t kKeptOutputLines = 20;

// Owns the process and a monitor thread that launched it (the kernel kills a program with the
// thread that launched it, so that thread lives as long as the child) and reads its pipes. What the
// child inherits stands at Launch. Thread-safe.
class ChildProcess {
 public:
  // Returns once exec succeeded; NOT_FOUND or INTERNAL name the program and the reason.
  static absl::StatusOr<std::unique_ptr<ChildProcess>> Start(ChildOptions options);

  // Kills the child with SIGKILL if it still runs, and waits for it.
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  pid_t pid() const { return pid_; }
  // Does nothing once the child has ended.
  void Signal(int signal);
  // Absent while it runs.
  std::optional<ExitStatus> exit_status() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Whether it ended within `timeout`.
  bool WaitForExit(absl::Duration timeout) const ABSL_LOCKS_EXCLUDED(mutex_);
  // The last lines of output, oldest first, at most kKeptOutputLines.
  std::vector<std::string> LastOutputLines() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  // A pipe's reading end, cut into lines.
  struct LineReader;

  explicit ChildProcess(ChildOptions options) : options_(std::move(options)) {}
  // Forks and execs on the calling thread; fills pid_, pidfd_ and the pipes.
  absl::Status Spawn();
  // Reads until the child has ended.
  void Monitor();
  void OnOutputLine(std::string_view line) ABSL_LOCKS_EXCLUDED(mutex_);

  const ChildOptions options_;
  pid_t pid_ = -1;
  int pidfd_ = -1;
  int output_fd_ = -1;
  int status_fd_ = -1;
  mutable absl::Mutex mutex_;
  std::optional<ExitStatus> exit_status_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::string> last_lines_ ABSL_GUARDED_BY(mutex_);
  std::thread monitor_;
};

}  // namespace d2g::common

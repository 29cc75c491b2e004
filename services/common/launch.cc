#include "services/common/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string_view>

#include "absl/strings/str_cat.h"

namespace d2g::common {
namespace {

// NULL-terminated views for execve; must outlive the call.
std::vector<char*> Pointers(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  pointers.reserve(strings.size() + 1);
  for (const std::string& text : strings) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

// Our environment with `added` over it.
std::vector<std::string> Environment(const std::vector<std::string>& added) {
  std::vector<std::string> result;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const std::string_view name = text.substr(0, text.find('=') + 1);
    bool replaced = false;
    for (const std::string& extra : added) replaced |= extra.compare(0, name.size(), name) == 0;
    if (!replaced) result.emplace_back(text);
  }
  result.insert(result.end(), added.begin(), added.end());
  return result;
}

// Descriptors from `first` on that some library opened without close-on-exec.
bool CloseAtExec(int first) {
  if (syscall(SYS_close_range, first, ~0u, 4 /* CLOEXEC */) == 0) return true;
  // A kernel before 5.11, or a filter that refuses the call.
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return false;
  for (rlim_t fd = static_cast<rlim_t>(first); fd < limit.rlim_cur; ++fd) {
    if (fcntl(static_cast<int>(fd), F_SETFD, FD_CLOEXEC) != 0 && errno != EBADF) return false;
  }
  return true;
}

// Runs in the child between fork and exec, where only async-signal-safe calls are allowed: no
// allocation, no locks. Reports a failure's errno through `error_fd`.
[[noreturn]] void ExecChild(char* const* argv, char* const* envp, pid_t parent,
                            const LaunchOptions& options, int error_fd) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);  // the parent died before prctl took hold
  setpgid(0, 0);
  // Refused for SIGKILL and SIGSTOP, which have no other action.
  for (int signal = 1; signal < NSIG; ++signal) ::signal(signal, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  // Out of the way of the numbers that are given out below.
  const auto raise = [](int fd, int* high) {
    *high = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, kStatusFd + 1);
    return *high >= 0;
  };
  if (int high; raise(error_fd, &high)) error_fd = high;
  const bool has_status = options.status_fd >= 0;
  int in, out, err, status = -1;
  // In this order: the first failure's errno is reported.
  const bool ok = raise(open("/dev/null", O_RDONLY | O_CLOEXEC), &in) &&
                  raise(options.stdout_fd, &out) && raise(options.stderr_fd, &err) &&
                  (!has_status || raise(options.status_fd, &status)) &&
                  dup2(in, STDIN_FILENO) >= 0 && dup2(out, STDOUT_FILENO) >= 0 &&
                  dup2(err, STDERR_FILENO) >= 0 && (!has_status || dup2(status, kStatusFd) >= 0) &&
                  CloseAtExec(has_status ? kStatusFd + 1 : kStatusFd);
  if (ok) execvpe(argv[0], argv, envp);
  const int error = errno;
  [[maybe_unused]] const ssize_t written = write(error_fd, &error, sizeof(error));
  _exit(127);
}

}  // namespace

ExitStatus ExitStatus::FromWait(int status) {
  return WIFSIGNALED(status) ? ExitStatus{WTERMSIG(status), true}
                             : ExitStatus{WEXITSTATUS(status), false};
}

std::string ExitStatus::ToString() const {
  if (!signalled) return absl::StrCat("exit code ", value);
  return absl::StrCat("signal ", value, " (", strsignal(value), ")");
}

absl::StatusOr<pid_t> Launch(const LaunchOptions& options) {
  if (options.argv.empty()) return absl::InvalidArgumentError("a child process needs a program");
  const std::string& program = options.argv[0];
  const std::vector<std::string> environment = Environment(options.environment);
  const std::vector<char*> argv = Pointers(options.argv);
  const std::vector<char*> envp = Pointers(environment);
  int report[2];
  if (pipe2(report, O_CLOEXEC) != 0) {
    return absl::InternalError(absl::StrCat("cannot run ", program, ": pipe: ", strerror(errno)));
  }
  const pid_t parent = getpid();
  const pid_t pid = fork();
  const int fork_errno = errno;
  if (pid == 0) ExecChild(argv.data(), envp.data(), parent, options, report[1]);
  close(report[1]);
  // exec closes the child's end of the pipe; a failed exec writes errno first.
  int error = 0;
  ssize_t got = 0;
  while (pid > 0 && (got = read(report[0], &error, sizeof(error))) < 0 && errno == EINTR) {
  }
  close(report[0]);
  if (pid < 0) {
    return absl::InternalError(
        absl::StrCat("cannot run ", program, ": fork: ", strerror(fork_errno)));
  }
  if (got == 0) return pid;
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
  const std::string message = absl::StrCat("cannot run ", program, ": ", strerror(error));
  return error == ENOENT ? absl::NotFoundError(message) : absl::InternalError(message);
}

}  // namespace d2g::common

#include "cli/process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace d2g::cli {
namespace {

// A log that has grown beyond this is moved to "<log>.1" before the next start.
constexpr off_t kMaxLogBytes = off_t{32} << 20;
// TailOf reads no more than this of a long log.
constexpr std::streamoff kTailBytes = 65536;

// Between fork and exec: only async-signal-safe calls.
[[noreturn]] void RunChild(char* const* argv, int log, int null, int report, pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);
  setpgid(0, 0);
  for (int signal = 1; signal < NSIG; ++signal) {
    if (signal != SIGKILL && signal != SIGSTOP) ::signal(signal, SIG_DFL);
  }
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  dup2(null, STDIN_FILENO);
  dup2(log, STDOUT_FILENO);
  dup2(log, STDERR_FILENO);
  execv(argv[0], argv);
  const int error = errno;
  [[maybe_unused]] const ssize_t written = write(report, &error, sizeof(error));
  _exit(127);
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() { Close(); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  void Close() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }

 private:
  int fd_;
};

void RotateLog(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  const off_t size = lseek(fd, 0, SEEK_END);
  close(fd);
  if (size > kMaxLogBytes) rename(path.c_str(), (path + ".1").c_str());
}

}  // namespace

std::string ProcessEnd::ToString() const {
  if (signal != 0) return absl::StrCat("signal ", signal, " (", strsignal(signal), ")");
  return absl::StrCat("exit code ", code);
}

absl::StatusOr<pid_t> Spawn(const Command& command) {
  const std::string& program = command.argv.front();
  RotateLog(command.log_path);
  const Descriptor log(
      open(command.log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (log.get() < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(command.log_path, ": cannot write: ", std::strerror(errno)));
  }
  const Descriptor null(open("/dev/null", O_RDONLY | O_CLOEXEC));
  int ends[2];
  if (null.get() < 0 || pipe2(ends, O_CLOEXEC) != 0) {
    return absl::InternalError(absl::StrCat("cannot start ", program, ": ", std::strerror(errno)));
  }
  const Descriptor from_child(ends[0]);
  Descriptor report(ends[1]);
  std::vector<char*> argv;
  for (const std::string& argument : command.argv) {
    argv.push_back(const_cast<char*>(argument.c_str()));
  }
  argv.push_back(nullptr);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) {
    return absl::InternalError(absl::StrCat("cannot start ", program, ": ", std::strerror(errno)));
  }
  if (pid == 0) RunChild(argv.data(), log.get(), null.get(), report.get(), parent);
  report.Close();
  // exec closes the child's end of the pipe; a failed exec writes errno first.
  int error = 0;
  ssize_t got;
  do {
    got = read(from_child.get(), &error, sizeof(error));
  } while (got < 0 && errno == EINTR);
  if (got == sizeof(error)) {
    waitpid(pid, nullptr, 0);
    const std::string message = absl::StrCat("cannot run ", program, ": ", std::strerror(error));
    return error == ENOENT ? absl::NotFoundError(message) : absl::InternalError(message);
  }
  return pid;
}

std::optional<ProcessEnd> Poll(pid_t pid) {
  int status = 0;
  const pid_t got = waitpid(pid, &status, WNOHANG);
  if (got == 0) return std::nullopt;
  if (got < 0) return errno == EINTR ? std::nullopt : std::optional<ProcessEnd>(ProcessEnd{});
  if (WIFSIGNALED(status)) return ProcessEnd{128 + WTERMSIG(status), WTERMSIG(status)};
  return ProcessEnd{WEXITSTATUS(status), 0};
}

std::string TailOf(const std::string& path, int lines) {
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  if (!in) return "";
  const std::streamoff size = in.tellg();
  const std::streamoff begin = std::max<std::streamoff>(0, size - kTailBytes);
  in.seekg(begin);
  std::string text(static_cast<size_t>(size - begin), '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(in.gcount()));
  while (!text.empty() && text.back() == '\n') text.pop_back();
  size_t cut = text.size();
  for (int i = 0; i < lines && cut != std::string::npos; ++i) {
    cut = cut == 0 ? std::string::npos : text.rfind('\n', cut - 1);
  }
  return cut == std::string::npos ? text : text.substr(cut + 1);
}

}  // namespace d2g::cli

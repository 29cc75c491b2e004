#include "services/common/child_process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

// glibc 2.36 forgot to say so itself.
extern "C" {
#include <sys/pidfd.h>
}

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "services/common/status_macros.h"

namespace d2g::common {
namespace {

// A longer line is cut here and the rest taken as a new one, so that a child without newlines
// cannot fill our memory.
constexpr size_t kMaxLineBytes = size_t{64} * 1024;

// A pipe whose ends close by themselves.
struct Pipe {
  int read_end = -1;
  int write_end = -1;

  absl::Status Open() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) {
      return absl::InternalError(absl::StrCat("cannot make a pipe: ", strerror(errno)));
    }
    read_end = ends[0];
    write_end = ends[1];
    return absl::OkStatus();
  }
  void CloseWriteEnd() {
    if (write_end >= 0) close(std::exchange(write_end, -1));
  }
  int ReleaseReadEnd() { return std::exchange(read_end, -1); }
  ~Pipe() {
    CloseWriteEnd();
    if (read_end >= 0) close(read_end);
  }
};

}  // namespace

// Takes over the descriptor.
struct ChildProcess::LineReader {
  int fd;
  std::function<void(std::string_view)> on_line;
  std::string pending;

  ~LineReader() { Close(); }

  void Close() {
    if (fd < 0) return;
    close(std::exchange(fd, -1));
    if (!pending.empty()) on_line(pending);
    pending.clear();
  }

  // Reads what there is without blocking; closes at end of file.
  void Drain() {
    char buffer[16 * 1024];
    while (fd >= 0) {
      const ssize_t n = read(fd, buffer, sizeof(buffer));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && errno == EAGAIN) return;
      if (n <= 0) return Close();
      pending.append(buffer, static_cast<size_t>(n));
      size_t begin = 0;
      for (size_t end; (end = pending.find('\n', begin)) != std::string::npos; begin = end + 1) {
        on_line(std::string_view(pending).substr(begin, end - begin));
      }
      pending.erase(0, begin);
      if (pending.size() > kMaxLineBytes) {
        on_line(pending);
        pending.clear();
      }
    }
  }
};

absl::StatusOr<std::unique_ptr<ChildProcess>> ChildProcess::Start(ChildOptions options) {
  std::unique_ptr<ChildProcess> child(new ChildProcess(std::move(options)));
  absl::Status spawned;
  absl::Notification done;
  ChildProcess* const raw = child.get();
  raw->monitor_ = std::thread([raw, &spawned, &done] {
    spawned = raw->Spawn();
    const bool ok = spawned.ok();
    done.Notify();
    if (ok) raw->Monitor();
  });
  done.WaitForNotification();
  if (!spawned.ok()) return spawned;
  return child;
}

ChildProcess::~ChildProcess() {
  if (pid_ > 0) Signal(SIGKILL);
  if (monitor_.joinable()) monitor_.join();
  if (pidfd_ >= 0) close(pidfd_);
}

absl::Status ChildProcess::Spawn() {
  Pipe output, status;
  if (absl::Status made = output.Open(); !made.ok()) return made;
  if (options_.status_pipe) {
    if (absl::Status made = status.Open(); !made.ok()) return made;
  }
  D2G_ASSIGN_OR_RETURN(pid_, Launch({.argv = options_.argv,
                                     .environment = options_.environment,
                                     .stdout_fd = output.write_end,
                                     .stderr_fd = output.write_end,
                                     .status_fd = status.write_end}));
  pidfd_ = pidfd_open(pid_, 0);
  if (pidfd_ < 0) {
    const int error = errno;
    kill(pid_, SIGKILL);
    waitpid(std::exchange(pid_, -1), nullptr, 0);
    return absl::InternalError(
        absl::StrCat("cannot watch ", options_.argv[0], ": ", strerror(error)));
  }
  output_fd_ = output.ReleaseReadEnd();
  status_fd_ = status.ReleaseReadEnd();
  for (const int fd : {output_fd_, status_fd_}) {
    if (fd >= 0) fcntl(fd, F_SETFL, O_NONBLOCK);
  }
  return absl::OkStatus();
}

void ChildProcess::Monitor() {
  LineReader output{output_fd_, [this](std::string_view line) { OnOutputLine(line); }, {}};
  LineReader status{status_fd_,
                    [this](std::string_view line) {
                      if (options_.on_status_line) options_.on_status_line(line);
                    },
                    {}};
  for (bool ended = false; !ended;) {
    // poll skips negative descriptors.
    pollfd fds[] = {{output.fd, POLLIN, 0}, {status.fd, POLLIN, 0}, {pidfd_, POLLIN, 0}};
    if (poll(fds, 3, -1) < 0 && errno != EINTR) break;
    ended = fds[2].revents != 0;
    // Once the child has ended, what it wrote is in the pipes; a grandchild that still holds them
    // open is not waited for.
    status.Drain();
    output.Drain();
  }
  status.Close();
  output.Close();
  int raw = 0;
  while (waitpid(pid_, &raw, 0) < 0 && errno == EINTR) {
  }
  {
    absl::MutexLock lock(&mutex_);
    exit_status_ = ExitStatus::FromWait(raw);
  }
  if (options_.on_exit) options_.on_exit();
}

void ChildProcess::OnOutputLine(std::string_view line) {
  {
    absl::MutexLock lock(&mutex_);
    last_lines_.emplace_back(line);
    if (last_lines_.size() > kKeptOutputLines) last_lines_.pop_front();
  }
  if (options_.on_output_line) options_.on_output_line(line);
}

// By descriptor, so that a reused pid is never hit.
void ChildProcess::Signal(int signal) { pidfd_send_signal(pidfd_, signal, nullptr, 0); }

std::optional<ExitStatus> ChildProcess::exit_status() const {
  absl::MutexLock lock(&mutex_);
  return exit_status_;
}

bool ChildProcess::WaitForExit(absl::Duration timeout) const {
  absl::MutexLock lock(&mutex_);
  const auto ended = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return exit_status_.has_value(); };
  return mutex_.AwaitWithTimeout(absl::Condition(&ended), timeout);
}

std::vector<std::string> ChildProcess::LastOutputLines() const {
  absl::MutexLock lock(&mutex_);
  return {last_lines_.begin(), last_lines_.end()};
}

}  // namespace d2g::common

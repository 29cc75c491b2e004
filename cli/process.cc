#include "cli/process.h"

#include <fcntl.h>
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

void RotateLog(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  const off_t size = lseek(fd, 0, SEEK_END);
  close(fd);
  if (size > kMaxLogBytes) rename(path.c_str(), (path + ".1").c_str());
}

}  // namespace

absl::StatusOr<pid_t> Spawn(const Command& command) {
  RotateLog(command.log_path);
  const int log = open(command.log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (log < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(command.log_path, ": cannot write: ", std::strerror(errno)));
  }
  absl::StatusOr<pid_t> pid =
      common::Launch({.argv = command.argv, .stdout_fd = log, .stderr_fd = log});
  close(log);
  return pid;
}

std::optional<common::ExitStatus> Poll(pid_t pid) {
  int status = 0;
  const pid_t got = waitpid(pid, &status, WNOHANG);
  if (got == 0 || (got < 0 && errno == EINTR)) return std::nullopt;
  return got < 0 ? common::ExitStatus{} : common::ExitStatus::FromWait(status);
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

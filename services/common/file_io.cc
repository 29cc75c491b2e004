#include "services/common/file_io.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "services/common/status_macros.h"
#include "services/files/file_writer.h"

namespace d2g::common {
namespace {

// Closes on destruction.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  const int fd_;
};

absl::StatusCode ErrnoStatusCode(int error) {
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return absl::StatusCode::kNotFound;
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::StatusCode::kPermissionDenied;
    case ENOSPC:
    case EDQUOT:
      return absl::StatusCode::kResourceExhausted;
    default:
      return absl::StatusCode::kInternal;
  }
}

// How long a pipe is waited for.
constexpr int kPipePatienceMs = 5'000;

absl::Status AwaitWriter(int pipe, const std::string& path) {
  pollfd wanted = {.fd = pipe, .events = POLLIN, .revents = 0};
  int ready = 0;
  do {
    ready = poll(&wanted, 1, kPipePatienceMs);
  } while (ready < 0 && errno == EINTR);
  if (ready > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(path, ": is a pipe, and nobody wrote into it for ",
                                                 kPipePatienceMs / 1000, " seconds"));
}

}  // namespace

absl::Status ErrnoStatus(int error, absl::string_view path, absl::string_view what) {
  return absl::Status(ErrnoStatusCode(error),
                      absl::StrCat(path, ": ", what, ": ", strerror(error)));
}

absl::Status FromSystemError(const std::system_error& error) {
  return absl::Status(ErrnoStatusCode(error.code().value()), error.what());
}

absl::StatusOr<std::string> AbsolutePath(const std::string& path) {
  if (path.empty()) return absl::InvalidArgumentError("a path is empty");
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path, error);
  if (error) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": is relative, and the current folder cannot be told: ", error.message()));
  }
  return absolute.lexically_normal().string();
}

absl::Status SyncFolder(const std::string& folder) {
  try {
    files::SyncFolder(folder);
  } catch (const std::system_error& error) {
    return FromSystemError(error);
  }
  return absl::OkStatus();
}

absl::Status WriteFileAtomically(const std::string& path, absl::string_view content) {
  try {
    files::FileWriter file(path);
    file.Append(content.data(), content.size());
    file.Commit();
  } catch (const std::system_error& error) {
    return FromSystemError(error);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadFile(const std::string& path, int64_t max_bytes) {
  // Opening a pipe would otherwise wait for its writer, for ever if there is none.
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0) return ErrnoStatus(errno, path, "cannot open");
  struct stat info = {};
  if (fstat(file.get(), &info) != 0) return ErrnoStatus(errno, path, "cannot stat");
  if (S_ISDIR(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": is a folder, not a file"));
  }
  if (S_ISFIFO(info.st_mode)) D2G_RETURN_IF_ERROR(AwaitWriter(file.get(), path));
  fcntl(file.get(), F_SETFL, 0);
  const auto too_large = [&](auto bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path, " has ", bytes, " bytes, more than the limit of ", max_bytes));
  };
  if (info.st_size > max_bytes) return too_large(info.st_size);
  std::string content(static_cast<size_t>(info.st_size), '\0');
  size_t done = 0;
  while (true) {
    if (done == content.size()) content.resize(content.size() + 4096);
    const ssize_t got = read(file.get(), content.data() + done, content.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(errno, path, "cannot read");
    if (got == 0) break;
    done += static_cast<size_t>(got);
    // A device has no size, and a file may grow.
    if (static_cast<int64_t>(done) > max_bytes) return too_large(done);
  }
  content.resize(done);
  return content;
}

}  // namespace d2g::common

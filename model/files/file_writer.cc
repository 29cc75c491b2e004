#include "model/files/file_writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "model/files/error.h"

namespace d2g::model {
namespace {

// Bytes between two syncs: a slow disk then takes a large file in steps that its caller can count,
// instead of in one long last one.
constexpr size_t kSyncBytes = size_t{1} << 30;

}  // namespace

FileWriter::FileWriter(const std::string& path) : path_(path) {
  // The file that a link means is replaced, not the link.
  std::error_code error;
  if (std::filesystem::is_symlink(path, error)) {
    path_ = std::filesystem::weakly_canonical(path, error).string();
    if (error) FailWith("cannot be followed", error.value());
  }
  struct stat info {};
  if (::stat(path_.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) {
    throw IoError(path + ": is not a regular file: it cannot be replaced by one");
  }
  temporary_ = path_ + ".XXXXXX";
  fd_ = ::mkostemp(temporary_.data(), O_CLOEXEC);
  if (fd_ < 0) {
    const int error = errno;
    temporary_.clear();
    FailWith("cannot be created", error);
  }
  // mkostemp makes private files; these are as public as any other output.
  ::fchmod(fd_, 0644);
}

FileWriter::~FileWriter() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void FileWriter::Append(const void* data, size_t size) {
  const char* bytes = static_cast<const char*>(data);
  constexpr size_t kChunk = size_t{64} << 20;
  while (size > 0) {
    const ssize_t written = ::write(fd_, bytes, std::min(size, kChunk));
    if (written < 0) {
      if (errno == EINTR) continue;
      FailWith("cannot be written", errno);
    }
    bytes += written;
    size -= static_cast<size_t>(written);
    unsynced_ += static_cast<size_t>(written);
    if (unsynced_ >= kSyncBytes) {
      if (::fdatasync(fd_) != 0) FailWith("cannot be synced", errno);
      unsynced_ = 0;
    }
  }
}

void FileWriter::Commit() {
  if (::fsync(fd_) != 0) FailWith("cannot be synced", errno);
  const int fd = fd_;
  fd_ = -1;
  if (::close(fd) != 0) FailWith("cannot be closed", errno);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) FailWith("cannot be renamed to", errno);
  temporary_.clear();
  const std::filesystem::path parent = std::filesystem::path(path_).parent_path();
  const std::string folder = parent.empty() ? std::string(1, '.') : parent.string();
  const int folder_fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder_fd < 0) FailWith("its folder cannot be opened", errno);
  const bool synced = ::fsync(folder_fd) == 0 || errno == EINVAL;
  const int error = errno;
  ::close(folder_fd);
  if (!synced) FailWith("its folder cannot be synced", error);
}

void FileWriter::FailWith(const char* what, int error) {
  throw IoError(path_ + ": " + what + ": " + std::strerror(error));
}

}  // namespace d2g::model

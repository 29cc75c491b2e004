#include "services/files/file_writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <random>
#include <system_error>

namespace d2g::files {
namespace {

// Bytes between two syncs: a slow disk then takes a large file in steps that its caller can count,
// instead of in one long last one.
constexpr size_t kSyncBytes = size_t{1} << 30;

[[noreturn]] void Throw(const std::string& path, const char* what, int error) {
  throw std::system_error(error, std::generic_category(), path + ": " + what);
}

// Two writers of one path do not meet, not even those of two machines.
std::string TemporaryName(const std::string& path) {
  std::random_device random;
  char suffix[32];
  std::snprintf(suffix, sizeof suffix, ".tmp-%08" PRIx32 "%08" PRIx32,
                static_cast<uint32_t>(random()), static_cast<uint32_t>(random()));
  return path + suffix;
}

}  // namespace

FileWriter::FileWriter(const std::string& path) : path_(path) {
  // The file that a link means is replaced, not the link.
  std::error_code error;
  if (std::filesystem::is_symlink(path, error)) {
    path_ = std::filesystem::weakly_canonical(path, error).string();
    if (error) Throw(path, "cannot be followed", error.value());
  }
  struct stat info {};
  if (::stat(path_.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) {
    Throw(path, "is not a regular file, and cannot be replaced by one",
          S_ISDIR(info.st_mode) ? EISDIR : EINVAL);
  }
  const std::string temporary = TemporaryName(path_);
  fd_ = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd_ < 0) FailWith("cannot be created", errno);
  temporary_ = temporary;
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
  SyncFolder(parent.empty() ? "." : parent.string());
}

void FileWriter::FailWith(const char* what, int error) { Throw(path_, what, error); }

void SyncFolder(const std::string& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) Throw(folder, "cannot be opened", errno);
  // Some file systems have nothing to sync for a folder, and say so.
  const bool synced = ::fsync(fd) == 0 || errno == EINVAL;
  const int error = errno;
  ::close(fd);
  if (!synced) Throw(folder, "cannot be synced", error);
}

}  // namespace d2g::files

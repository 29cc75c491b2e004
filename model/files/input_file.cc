#include "model/files/input_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "model/files/error.h"
#include "model/files/missing_file.h"

namespace d2g::model {

InputFile::InputFile(const std::string& path)
    : path_(path),
      // Without waiting for a writer, should it be a pipe.
      fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
  if (fd_ < 0) {
    const int error = errno;
    const std::string message = path + ": cannot be opened: " + std::strerror(error);
    if (error == ENOENT) throw MissingFile(message);
    throw IoError(message);
  }
  struct stat info {};
  if (::fstat(fd_, &info) != 0) {
    const int error = errno;
    ::close(fd_);
    throw IoError(path + ": cannot be read: " + std::strerror(error));
  }
  if (!S_ISREG(info.st_mode)) {
    ::close(fd_);
    Fail(path, ": not a regular file");
  }
  size_ = static_cast<uint64_t>(info.st_size);
}

InputFile::~InputFile() { ::close(fd_); }

std::string InputFile::Read(uint64_t offset, uint64_t count) const {
  std::string content(count, '\0');
  size_t got = 0;
  while (got < content.size()) {
    const ssize_t bytes =
        ::pread(fd_, content.data() + got, content.size() - got, static_cast<off_t>(offset + got));
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes < 0) throw IoError(path_ + ": cannot be read: " + std::strerror(errno));
    if (bytes == 0) break;
    got += static_cast<size_t>(bytes);
  }
  content.resize(got);
  return content;
}

bool FileExists(const std::string& path) {
  std::error_code error;
  const bool exists = std::filesystem::exists(path, error);
  if (error) throw IoError(path + ": cannot be looked at: " + error.message());
  return exists;
}

std::string ReadFileToString(const std::string& path, uint64_t limit) {
  const InputFile file(path);
  if (file.size() > limit) Fail(path, ": ", file.size(), " bytes are over the limit of ", limit);
  return file.Read(0, file.size());
}

}  // namespace d2g::model

// Files to read: regular ones only, so that no path of a user's makes a program wait or read
// without end.
#pragma once

#include <cstdint>
#include <string>

namespace d2g::model {

// Reads a whole file. Throws IoError naming it, and Error if it is over `limit` bytes or not a
// regular file.
std::string ReadFileToString(const std::string& path, uint64_t limit = uint64_t{256} << 20);

// Whether anything is at `path` (not where a link leads nowhere). Throws IoError where the system
// does not let it be told.
bool FileExists(const std::string& path);

// An open regular file, for reading. Throws as ReadFileToString does.
class InputFile {
 public:
  explicit InputFile(const std::string& path);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  // The bytes [offset, offset + count), fewer where the file ends before. Throws IoError.
  std::string Read(uint64_t offset, uint64_t count) const;

  int get() const { return fd_; }
  uint64_t size() const { return size_; }

 private:
  const std::string path_;
  int fd_;
  uint64_t size_ = 0;
};

}  // namespace d2g::model

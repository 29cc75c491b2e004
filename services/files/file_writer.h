// Writes a file so that its path holds the old or the new bytes, never a part.
#pragma once

#include <cstddef>
#include <string>

namespace d2g::files {

// Where `path` is a link, the file that it means is written. An existing path that is not a regular
// file (a device, a pipe, a folder) is refused. Bytes go to a temporary file in the same folder,
// with the mode bits of a new file; Commit fsyncs it, renames it over `path` and fsyncs the folder.
// Without Commit nothing is left behind. Every method throws std::system_error: what() names the
// path and the system's reason, code() is its errno. Not thread-safe.
class FileWriter {
 public:
  explicit FileWriter(const std::string& path);
  ~FileWriter();
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;

  void Append(const void* data, size_t size);
  void Commit();

 private:
  [[noreturn]] void FailWith(const char* what, int error);

  std::string path_;
  std::string temporary_;
  int fd_ = -1;
  size_t unsynced_ = 0;
};

// Makes a rename or a new file in `folder` durable. Throws as FileWriter does.
void SyncFolder(const std::string& folder);

}  // namespace d2g::files

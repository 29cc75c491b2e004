// One cluster a data folder.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace d2g::cli {

// Holds DATA_DIR/lock while it lives; the kernel lets go of it when the process dies.
class DataDirLock {
 public:
  // Makes the folder when it is missing. ALREADY_EXISTS names the process that holds it.
  static absl::StatusOr<DataDirLock> Take(const std::string& data_dir);

  DataDirLock(DataDirLock&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  DataDirLock& operator=(DataDirLock&&) = delete;
  ~DataDirLock();

 private:
  explicit DataDirLock(int fd) : fd_(fd) {}
  int fd_;
};

}  // namespace d2g::cli

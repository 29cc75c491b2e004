#include "cli/data_dir_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "cli/cluster_file.h"

namespace d2g::cli {

absl::StatusOr<DataDirLock> DataDirLock::Take(const std::string& data_dir) {
  std::error_code error;
  std::filesystem::create_directories(data_dir, error);
  if (error) {
    return absl::InvalidArgumentError(
        absl::StrCat(data_dir, ": cannot be made: ", error.message()));
  }
  const std::string path = data_dir + "/lock";
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", std::strerror(errno)));
  }
  DataDirLock lock(fd);
  if (flock(fd, LOCK_EX | LOCK_NB) == 0) return lock;
  const auto cluster = ReadClusterFile(data_dir);
  const std::string holder =
      cluster.ok() ? absl::StrCat("process ", cluster->pid, ", coordinator ", cluster->coordinator)
                   : "a process that is starting or stopping";
  return absl::AlreadyExistsError(absl::StrCat(data_dir, " is in use by a running cluster (",
                                               holder,
                                               "); use that one, stop it with d2g down --data-dir ",
                                               data_dir, ", or choose another --data-dir"));
}

DataDirLock::~DataDirLock() {
  if (fd_ >= 0) close(fd_);
}

}  // namespace d2g::cli

// A folder for files that live as long as a process.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace d2g::gang {

// A new folder in $TMPDIR (or /tmp), locked while its owner lives and removed with it. Not
// thread-safe.
class ScratchFolder {
 public:
  // Makes PREFIX and six random characters. Removes before what owners of such folders left that
  // were killed. An error names the folder in which none could be made, and why.
  static absl::StatusOr<std::unique_ptr<ScratchFolder>> Make(const std::string& prefix);

  ~ScratchFolder();
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  const std::string& path() const { return path_; }

 private:
  ScratchFolder(std::string path, int lock) : path_(std::move(path)), lock_(lock) {}

  const std::string path_;
  // Open on the folder; the kernel lets go of its lock when the process dies.
  const int lock_;
};

}  // namespace d2g::gang

// A small volume of its own, for tests of full and read-only disks.
#pragma once

#include <sys/mount.h>

#include <string>

#include "tests/testing/temp_dir.h"

namespace d2g::testing {

// A tmpfs mounted at construction and unmounted at destruction. Mounting needs root, if only that
// of a user namespace (tools/ctest.sh): a test skips itself when !mounted().
class Tmpfs {
 public:
  // `size` as mount takes it ("48m").
  explicit Tmpfs(const std::string& size)
      : mounted_(mount("tmpfs", dir_.path().c_str(), "tmpfs", 0, ("size=" + size).c_str()) == 0) {}
  ~Tmpfs() {
    if (mounted_) umount2(dir_.path().c_str(), MNT_DETACH);
  }
  Tmpfs(const Tmpfs&) = delete;
  Tmpfs& operator=(const Tmpfs&) = delete;

  bool mounted() const { return mounted_; }
  const std::string& path() const { return dir_.path(); }
  // From now on nothing on it can be changed.
  bool MakeReadOnly() {
    return mount("tmpfs", dir_.path().c_str(), "tmpfs", MS_REMOUNT | MS_RDONLY, nullptr) == 0;
  }

 private:
  TempDir dir_;
  const bool mounted_;
};

}  // namespace d2g::testing

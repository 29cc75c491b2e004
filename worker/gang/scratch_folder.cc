#include "worker/gang/scratch_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace d2g::gang {
namespace {

namespace fs = std::filesystem;

// A descriptor on the folder that holds its lock; -1 when another process does, or it is gone.
int Lock(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return -1;
  if (flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
  close(fd);
  return -1;
}

void RemoveLeftovers(const fs::path& parent, const std::string& prefix) {
  std::error_code error;
  // Not a range-for, whose ++ throws.
  fs::directory_iterator entry(parent, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    if (!absl::StartsWith(entry->path().filename().string(), prefix)) continue;
    const int fd = Lock(entry->path().string());
    if (fd < 0) continue;
    std::error_code ignored;
    fs::remove_all(entry->path(), ignored);
    close(fd);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<ScratchFolder>> ScratchFolder::Make(const std::string& prefix) {
  const char* const chosen = std::getenv("TMPDIR");
  const fs::path parent = chosen == nullptr || *chosen == '\0' ? "/tmp" : chosen;
  RemoveLeftovers(parent, prefix);
  while (true) {
    std::string path = (parent / (prefix + "XXXXXX")).string();
    if (mkdtemp(path.data()) == nullptr) {
      return absl::FailedPreconditionError(
          absl::StrCat(parent.string(), ": cannot make a folder here: ", std::strerror(errno),
                       chosen == nullptr ? "" : " ($TMPDIR says to)"));
    }
    // Between the two lines another process may have taken it for a leftover.
    const int lock = Lock(path);
    std::error_code ignored;
    if (lock >= 0 && fs::exists(path, ignored)) {
      return std::unique_ptr<ScratchFolder>(new ScratchFolder(std::move(path), lock));
    }
    if (lock >= 0) close(lock);
  }
}

ScratchFolder::~ScratchFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
  close(lock_);
}

}  // namespace d2g::gang

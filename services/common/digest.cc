#include "services/common/digest.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "services/common/file_io.h"
#include "xxhash.h"

namespace d2g::common {
namespace {

std::string Hex128(const XXH128_hash_t& hash) {
  return absl::StrFormat("%016x%016x", hash.high64, hash.low64);
}

}  // namespace

uint64_t Xxh3(absl::string_view bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

std::string Xxh3Hex128(absl::string_view bytes) {
  return Hex128(XXH3_128bits(bytes.data(), bytes.size()));
}

struct Digester::State {
  XXH3_state_t* xxh = XXH3_createState();
  ~State() { XXH3_freeState(xxh); }
};

Digester::Digester() : state_(std::make_unique<State>()) { XXH3_128bits_reset(state_->xxh); }
Digester::~Digester() = default;

void Digester::Update(absl::string_view bytes) {
  XXH3_128bits_update(state_->xxh, bytes.data(), bytes.size());
}

absl::StatusOr<int64_t> Digester::UpdateFromFile(const std::string& path, const Tick& tick) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus(errno, path, "cannot open");
  std::vector<char> buffer(1 << 20);
  int64_t size = 0;
  while (true) {
    const ssize_t got = read(fd, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      const int error = errno;
      close(fd);
      return ErrnoStatus(error, path, "cannot read");
    }
    if (got == 0) break;
    Update(absl::string_view(buffer.data(), static_cast<size_t>(got)));
    size += got;
    if (tick && !tick()) {
      close(fd);
      return absl::CancelledError(absl::StrCat("stopped while reading ", path));
    }
  }
  close(fd);
  return size;
}

std::string Digester::Hex() const { return Hex128(XXH3_128bits_digest(state_->xxh)); }

}  // namespace d2g::common

#include "services/common/identity.h"

#include <unistd.h>

#include <random>

#include "absl/strings/str_cat.h"
#include "services/common/utf8.h"

namespace d2g::common {

std::string NodeName() {
  char name[256] = {};
  if (gethostname(name, sizeof(name) - 1) != 0 || name[0] == '\0') return "unknown";
  return common::ValidUtf8(name);
}

std::string RandomId(const std::string& prefix) {
  std::random_device random;
  return absl::StrCat(prefix, "-", absl::Hex(random(), absl::kZeroPad8),
                      absl::Hex(random(), absl::kZeroPad8));
}

}  // namespace d2g::common

// How long a task that failed is not leased again.
#pragma once

#include <algorithm>

#include "absl/time/time.h"
#include "coordinator/rows/limits.h"

namespace d2g::coordinator {

// After so many failures in a row. REQUIRES: failures >= 1.
inline absl::Duration TaskBackoff(int failures) {
  return std::min(kMaxTaskBackoff, kFirstTaskBackoff * (1 << std::min(failures - 1, 10)));
}

}  // namespace d2g::coordinator

// When a decision is taken.
#pragma once

#include "absl/time/time.h"

namespace d2g::coordinator {

// Wall time for records, monotonic time for everything else.
struct Moment {
  absl::Time wall;
  absl::Duration steady;
};

}  // namespace d2g::coordinator

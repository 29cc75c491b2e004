// Numbers, durations and what others wrote, as people read them.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace d2g::cli {

// 1234567 -> "1,234,567".
std::string CountText(int64_t value);

// Three significant digits, no exponent between 1e-4 and 1e6: 12.3, 0.0123, 1,230.
std::string NumberText(double value);

// "0.4 s", "12 s", "3 min 05 s", "2 h 07 min", "3 d 4 h". Negative durations read as zero.
std::string DurationText(absl::Duration duration);

// A peer's error whose message does nothing to the terminal (services/common/utf8.h). Code and
// details stay as they are.
absl::Status ShownStatus(const absl::Status& status);

}  // namespace d2g::cli

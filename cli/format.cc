#include "cli/format.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/cord.h"
#include "absl/strings/str_format.h"
#include "services/common/utf8.h"

namespace d2g::cli {

std::string CountText(int64_t value) {
  std::string digits = std::to_string(value);
  const size_t first = digits[0] == '-' ? 1 : 0;
  for (size_t i = digits.size(); i > first + 3;) {
    i -= 3;
    digits.insert(i, 1, ',');
  }
  return digits;
}

std::string NumberText(double value) {
  if (!std::isfinite(value)) return absl::StrFormat("%g", value);
  const double size = std::fabs(value);
  if (size == 0) return "0";
  if (size >= 1e6 || size < 1e-4) return absl::StrFormat("%.2e", value);
  if (size >= 999.5) return CountText(std::llround(value));
  const int whole_digits = static_cast<int>(std::floor(std::log10(size))) + 1;
  return absl::StrFormat("%.*f", std::max(0, 3 - whole_digits), value);
}

std::string DurationText(absl::Duration duration) {
  const double seconds = std::max(0.0, absl::ToDoubleSeconds(duration));
  if (seconds < 9.95) return absl::StrFormat("%.1f s", seconds);
  const int64_t whole = std::llround(seconds);
  if (whole < 60) return absl::StrFormat("%d s", whole);
  if (whole < 3600) return absl::StrFormat("%d min %02d s", whole / 60, whole % 60);
  if (whole < 86400) return absl::StrFormat("%d h %02d min", whole / 3600, whole / 60 % 60);
  return absl::StrFormat("%d d %d h", whole / 86400, whole / 3600 % 24);
}

absl::Status ShownStatus(const absl::Status& status) {
  absl::Status shown(status.code(), common::WithoutControls(status.message()));
  status.ForEachPayload([&shown](absl::string_view url, const absl::Cord& payload) {
    shown.SetPayload(url, payload);
  });
  return shown;
}

}  // namespace d2g::cli

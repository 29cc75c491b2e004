#include "coordinator/state/rate_meter.h"

namespace d2g::coordinator {

void RateMeter::Sample(absl::Duration now, int64_t value) {
  if (!samples_.empty() && value < samples_.back().second) Reset();
  if (!growing_) {
    growing_ = !samples_.empty() && value > samples_.back().second;
    samples_ = {{now, value}};
    return;
  }
  if (samples_.size() >= 2 &&
      samples_.back().first - samples_[samples_.size() - 2].first < window_ / 50) {
    samples_.back() = {now, value};
  } else {
    samples_.emplace_back(now, value);
  }
  // The oldest sample kept is the last one at or before the window's start.
  while (samples_.size() > 2 && samples_[1].first <= now - window_) samples_.pop_front();
}

void RateMeter::Reset() {
  samples_.clear();
  growing_ = false;
}

double RateMeter::Rate() const {
  if (samples_.size() < 2) return 0;
  const absl::Duration span = samples_.back().first - samples_.front().first;
  if (span <= absl::ZeroDuration()) return 0;
  return static_cast<double>(samples_.back().second - samples_.front().second) /
         absl::ToDoubleSeconds(span);
}

}  // namespace d2g::coordinator

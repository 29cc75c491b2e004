#include "worker/simulate/batch_sizer.h"

#include <algorithm>

namespace d2g::simulate {
namespace {

// A doubling that gains less than this is not worth its memory and the longer way to the next
// durable triple.
constexpr double kWorthwhileGain = 1.05;

}  // namespace

BatchSizer::BatchSizer(const Options& options)
    : size_(std::clamp(options.start, 1, std::max(1, options.most))),
      most_(std::max(1, options.most)),
      grows_(options.grows) {}

void BatchSizer::Solved(int64_t count, absl::Duration elapsed) {
  if (!grows_ || count != size_ || elapsed <= absl::ZeroDuration()) return;
  if (!warm_) {
    warm_ = true;
    return;
  }
  const double rate = static_cast<double>(count) / absl::ToDoubleSeconds(elapsed);
  if (rate_before_ > 0 && rate < rate_before_ * kWorthwhileGain) {
    // The size before was as good.
    size_ = std::max(1, size_ / 2);
    grows_ = false;
    return;
  }
  rate_before_ = rate;
  if (size_ > most_ / 2) {
    grows_ = false;
  } else {
    size_ *= 2;
    warm_ = false;
  }
}

bool BatchSizer::OutOfMemory(int64_t count) {
  if (count <= 1) return false;
  grows_ = false;
  size_ = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(size_, count / 2)));
  return true;
}

}  // namespace d2g::simulate

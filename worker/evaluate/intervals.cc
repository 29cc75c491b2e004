#include "worker/evaluate/intervals.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "model/files/error.h"
#include "services/dataset/random.h"

namespace d2g::evaluate {
namespace {

constexpr double kNormalQuantile = 1.959963984540054;  // of 0.975

// Linear interpolation between order statistics (type 7, numpy's default).
double Quantile(const std::vector<double>& sorted, double q) {
  const double place = q * static_cast<double>(sorted.size() - 1);
  const size_t below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

}  // namespace

Interval Bootstrap(int64_t n, uint64_t seed,
                   const std::function<double(std::span<const int64_t>)>& statistic) {
  if (n < 2) model::Fail("an interval needs at least 2 samples, got ", n);
  std::vector<int64_t> positions(static_cast<size_t>(n));
  std::iota(positions.begin(), positions.end(), 0);
  Interval interval;
  interval.value = statistic(positions);
  std::vector<double> resampled;
  for (int resample = 0; resample < kBootstrapResamples; ++resample) {
    dataset::Philox random(seed, dataset::Purpose::kBootstrap, static_cast<uint64_t>(resample));
    for (int64_t& position : positions) {
      position = random.NextBelow(static_cast<uint32_t>(n));
    }
    resampled.push_back(statistic(positions));
  }
  std::sort(resampled.begin(), resampled.end());
  const double mean = std::accumulate(resampled.begin(), resampled.end(), 0.0) /
                      static_cast<double>(resampled.size());
  interval.low = Quantile(resampled, 0.025) - mean + interval.value;
  interval.high = Quantile(resampled, 0.975) - mean + interval.value;
  return interval;
}

Interval MeanInterval(std::span<const double> values, uint64_t seed) {
  return Bootstrap(static_cast<int64_t>(values.size()), seed,
                   [values](std::span<const int64_t> positions) {
                     double sum = 0;
                     for (const int64_t position : positions) {
                       sum += values[static_cast<size_t>(position)];
                     }
                     return sum / static_cast<double>(positions.size());
                   });
}

Interval WilsonInterval(int64_t successes, int64_t trials) {
  if (trials <= 0 || successes < 0 || successes > trials) {
    model::Fail("a share of ", successes, " in ", trials, " has no interval");
  }
  const double n = static_cast<double>(trials), p = static_cast<double>(successes) / n;
  const double z2 = kNormalQuantile * kNormalQuantile;
  const double centre = (p + z2 / (2 * n)) / (1 + z2 / n);
  const double half =
      kNormalQuantile / (1 + z2 / n) * std::sqrt(p * (1 - p) / n + z2 / (4 * n * n));
  return {p, centre - half, centre + half};
}

double GapClosed(double start, double target, double reached) {
  return start == target ? 0 : (start - reached) / (start - target);
}

}  // namespace d2g::evaluate

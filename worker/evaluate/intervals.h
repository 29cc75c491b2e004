// 95 % intervals of the quality measures.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

namespace d2g::evaluate {

// An estimate and the ends of its 95 % interval.
struct Interval {
  double value = 0;
  double low = 0;
  double high = 0;
};

// Resamples drawn for a bootstrap interval.
inline constexpr int kBootstrapResamples = 400;

// Bootstrap interval: the 2.5 % and 97.5 % points of the resampled statistic, shifted by its bias
// (the mean of the resampled less the value), which matters for the Frechet distance: it grows when
// pictures repeat. `statistic` maps positions in [0, n) (n of them, with repeats) to a number;
// it is called once with 0..n-1 for the value and kBootstrapResamples times with positions drawn
// with replacement, keyed by (seed, resample): the same interval on every machine. Throws
// model::Error when n < 2.
Interval Bootstrap(int64_t n, uint64_t seed,
                   const std::function<double(std::span<const int64_t>)>& statistic);

// Bootstrap interval of the mean of `values`.
Interval MeanInterval(std::span<const double> values, uint64_t seed);

// Wilson's score interval of a share (Wilson 1927). Throws model::Error unless
// 0 <= successes <= trials and trials > 0.
Interval WilsonInterval(int64_t successes, int64_t trials);

// Share of the way from `start` to `target` that `reached` went: 1 is all of it. 0 when start
// equals target.
double GapClosed(double start, double target, double reached);

}  // namespace d2g::evaluate

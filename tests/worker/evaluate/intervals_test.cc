#include "worker/evaluate/intervals.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "model/files/error.h"

namespace d2g::evaluate {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

TEST(WilsonInterval, AgreesWithTheFormula) {
  const Interval interval = WilsonInterval(150, 200);
  EXPECT_DOUBLE_EQ(interval.value, 0.75);
  EXPECT_NEAR(interval.low, 0.6856590168795417, 1e-12);
  EXPECT_NEAR(interval.high, 0.8049183199318249, 1e-12);
  EXPECT_NEAR(WilsonInterval(0, 10).low, 0, 1e-12);
  EXPECT_THAT([] { WilsonInterval(1, 0); }, ThrowsMessage<model::Error>(HasSubstr("1 in 0")));
}

TEST(MeanInterval, HasTheWidthOfTheNormalApproximation) {
  std::vector<double> values;
  for (int i = 0; i < 400; ++i) values.push_back(i % 2 ? 1.0 : -1.0);
  const Interval interval = MeanInterval(values, 7);
  EXPECT_DOUBLE_EQ(interval.value, 0);
  // Standard error 1/20.
  EXPECT_NEAR(interval.high, 1.96 / 20, 0.02);
  EXPECT_NEAR(interval.low, -1.96 / 20, 0.02);
}

TEST(Bootstrap, IsKeyed) {
  const std::vector<double> values{1, 2, 4, 8, 16, 32};
  const Interval a = MeanInterval(values, 1), b = MeanInterval(values, 1),
                 c = MeanInterval(values, 2);
  EXPECT_EQ(a.low, b.low);
  EXPECT_EQ(a.high, b.high);
  EXPECT_NE(a.low, c.low);
  EXPECT_THAT([] { MeanInterval(std::vector<double>{1}, 1); },
              ThrowsMessage<model::Error>(HasSubstr("at least 2 samples, got 1")));
}

TEST(Bootstrap, RemovesTheResamplingBias) {
  // The number of different positions: 100 in the sample, about 63 in any resample.
  const Interval interval = Bootstrap(100, 1, [](std::span<const int64_t> positions) {
    std::vector<bool> seen(100);
    for (const int64_t position : positions) seen[static_cast<size_t>(position)] = true;
    return static_cast<double>(std::count(seen.begin(), seen.end(), true));
  });
  EXPECT_EQ(interval.value, 100);
  EXPECT_LT(interval.low, 100);
  EXPECT_GT(interval.high, 100);
}

TEST(GapClosed, IsAShare) {
  EXPECT_DOUBLE_EQ(GapClosed(10, 2, 4), 0.75);
  EXPECT_DOUBLE_EQ(GapClosed(0.6, 0.9, 0.6), 0);
  EXPECT_DOUBLE_EQ(GapClosed(1, 1, 3), 0);
}

}  // namespace
}  // namespace d2g::evaluate

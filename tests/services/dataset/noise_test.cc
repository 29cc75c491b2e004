#include "services/dataset/noise.h"

#include <gtest/gtest.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "services/dataset/random.h"

namespace d2g::dataset {
namespace {

std::vector<float> Noise(uint64_t seed, int64_t index, size_t size) {
  std::vector<float> noise(size);
  FillNoise(seed, index, noise);
  return noise;
}

uint64_t Checksum(const std::vector<float>& noise) {
  return XXH3_64bits(noise.data(), noise.size() * sizeof(float));
}

// Every stored dataset depends on these bytes: a change here is a change of format.
TEST(Noise, BytesAreFrozen) {
  const std::vector<float> first = Noise(0, 0, 4);
  EXPECT_EQ(first, (std::vector<float>{1.13636732f, -0.675882995f, 1.24059176f, 0.224251136f}));
  EXPECT_EQ(Checksum(Noise(0, 0, 4 * 64 * 64)), 0xa546d95f3a7e1066);
  EXPECT_EQ(Checksum(Noise(1234567890123456789, 999999999, 4 * 8 * 8)), 0x1d003966935a5ee8);
  EXPECT_EQ(Checksum(Noise(42, int64_t{1} << 40, 255)), 0xaf5ad2a2458faa68);
}

// The transform against libm's: Box and Muller on the counter's words.
TEST(Noise, AgreesWithLibm) {
  const int64_t index = 77;
  const std::vector<float> noise = Noise(9, index, 40000);
  const double two_pi = 2 * std::acos(-1.0);
  for (uint32_t block = 0; block < noise.size() / 4; ++block) {
    const PhiloxBlock words =
        Philox4x32({block, static_cast<uint32_t>(Purpose::kNoise), index, 0}, 9);
    for (int pair = 0; pair < 2; ++pair) {
      const double radius = std::sqrt(-2 * std::log((words[2 * pair] + 0.5) * 0x1p-32));
      const double angle = two_pi * ((words[2 * pair + 1] + 0.5) * 0x1p-32);
      ASSERT_NEAR(noise[4 * block + 2 * pair], radius * std::cos(angle), 5e-7);
      ASSERT_NEAR(noise[4 * block + 2 * pair + 1], radius * std::sin(angle), 5e-7);
    }
  }
}

TEST(Noise, PrefixDoesNotDependOnLength) {
  const std::vector<float> whole = Noise(3, 5, 100);
  for (const size_t size : {1, 2, 3, 4, 5, 99}) {
    EXPECT_EQ(Noise(3, 5, size), std::vector<float>(whole.begin(), whole.begin() + size));
  }
}

TEST(Noise, IndicesAndSeedsAreIndependent) {
  const std::vector<float> a = Noise(3, 5, 4096);
  for (const std::vector<float>& b : {Noise(3, 6, 4096), Noise(4, 5, 4096)}) {
    double correlation = 0;
    for (size_t i = 0; i < a.size(); ++i) correlation += a[i] * b[i];
    EXPECT_LT(std::abs(correlation / a.size()), 4.0 / std::sqrt(a.size()));
  }
}

class NoiseDistribution : public testing::Test {
 protected:
  static constexpr int64_t kTriples = 500;
  static constexpr size_t kSize = 4096;
  static constexpr double kCount = kTriples * kSize;

  NoiseDistribution() {
    for (int64_t index = 0; index < kTriples; ++index) {
      const std::vector<float> noise = Noise(11, index, kSize);
      values_.insert(values_.end(), noise.begin(), noise.end());
    }
  }

  double Moment(int power) const {
    double sum = 0;
    for (const float value : values_) sum += std::pow(value, power);
    return sum / kCount;
  }

  std::vector<float> values_;
};

// Bounds are five standard errors of each estimate over 2,048,000 numbers.
TEST_F(NoiseDistribution, HasTheNormalMoments) {
  const double error = 5.0 / std::sqrt(kCount);
  EXPECT_NEAR(Moment(1), 0, error);
  EXPECT_NEAR(Moment(2), 1, error * std::sqrt(2.0));
  EXPECT_NEAR(Moment(3), 0, error * std::sqrt(15.0));
  EXPECT_NEAR(Moment(4), 3, error * std::sqrt(96.0));
}

TEST_F(NoiseDistribution, HasTheNormalTails) {
  for (const double sigma : {2.0, 3.0, 4.0}) {
    const double share = std::erfc(sigma / std::sqrt(2.0));
    const double found = static_cast<double>(std::count_if(
        values_.begin(), values_.end(), [&](float value) { return std::abs(value) > sigma; }));
    EXPECT_NEAR(found, kCount * share, 5 * std::sqrt(kCount * share)) << sigma;
  }
}

TEST_F(NoiseDistribution, PassesKolmogorovSmirnov) {
  std::sort(values_.begin(), values_.end());
  double distance = 0;
  for (size_t i = 0; i < values_.size(); ++i) {
    const double cumulative = 0.5 * std::erfc(-values_[i] / std::sqrt(2.0));
    distance = std::max(
        {distance, std::abs(cumulative - i / kCount), std::abs(cumulative - (i + 1) / kCount)});
  }
  // Passed by chance once in 1000 seeds.
  EXPECT_LT(distance, 1.95 / std::sqrt(kCount));
}

}  // namespace
}  // namespace d2g::dataset

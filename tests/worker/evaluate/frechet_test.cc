#include "worker/evaluate/frechet.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "model/files/error.h"

namespace d2g::evaluate {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

// 50 samples of 6 features by a formula that Python computes too.
at::Tensor Features(int k) {
  const at::Tensor i = at::arange(50, at::kDouble).unsqueeze(1);
  const at::Tensor j = at::arange(6, at::kDouble).unsqueeze(0);
  return (1.7 * k + 0.37 * i * (j + 1) + j).sin() + 0.1 * k * j + 0.5 * (0.9 * i + k).cos();
}

TEST(Frechet, AgreesWithNumpy) {
  const FeatureMoments a = MomentsOf(Features(1)), b = MomentsOf(Features(2));
  EXPECT_NEAR(a.mean[1].item<double>(), 0.08811224, 1e-7);
  EXPECT_NEAR(a.covariance[0][1].item<double>(), 0.15260174, 1e-7);
  // numpy: eigenvalues of the unsymmetric product of np.cov's.
  EXPECT_NEAR(FrechetDistance(a, b), 0.5294196275727341, 1e-9);
  EXPECT_NEAR(FrechetDistance(b, a), 0.5294196275727341, 1e-9);
}

TEST(Frechet, IsZeroBetweenEqualsAndExactForAShift) {
  const FeatureMoments a = MomentsOf(Features(1));
  EXPECT_NEAR(FrechetDistance(a, a), 0, 1e-9);
  EXPECT_NEAR(FrechetDistance(a, MomentsOf(Features(1) + 0.5)), 6 * 0.25, 1e-9);
}

TEST(Frechet, TakesSingularCovariances) {
  const at::Tensor line = at::arange(10, at::kDouble).unsqueeze(1).expand({10, 3});
  // Gaussians on one line through 3 dimensions: variance v a dimension, so tr terms by hand.
  const double v = 55.0 / 6;
  const double expected = 3 * v + 3 * 4 * v - 2 * std::sqrt(3 * v * 3 * 4 * v) + 3 * (4.5 * 4.5);
  EXPECT_NEAR(FrechetDistance(MomentsOf(line), MomentsOf(line * 2)), expected, 1e-6);
}

TEST(Frechet, RefusesWhatHasNoMoments) {
  EXPECT_THAT(
      [] {
        MomentsOf(at::zeros({1, 4}));
      },
      ThrowsMessage<model::Error>(HasSubstr("N of at least 2")));
  EXPECT_THAT(
      [] {
        MomentsOf(at::full({3, 4}, std::numeric_limits<float>::quiet_NaN()));
      },
      ThrowsMessage<model::Error>(HasSubstr("not finite")));
}

}  // namespace
}  // namespace d2g::evaluate

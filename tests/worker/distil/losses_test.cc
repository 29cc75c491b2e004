#include "worker/distil/losses.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/files/error.h"
#include "worker/distil/discriminator.h"
#include "worker/distil/regression.h"

namespace d2g::distil {
namespace {

TEST(PseudoHuber, IsPerSample) {
  const at::Tensor a = at::zeros({2, 1, 2, 2});
  const at::Tensor b = at::cat({at::full({1, 1, 2, 2}, 0.04F), at::full({1, 1, 2, 2}, -4.0F)});
  const at::Tensor loss = PseudoHuber(a, b, 0.03);
  EXPECT_NEAR(loss[0].item<double>(), 0.05 - 0.03, 1e-6);
  EXPECT_NEAR(loss[1].item<double>(), std::sqrt(16 + 0.0009) - 0.03, 1e-5);
  EXPECT_EQ(PseudoHuber(a, a, 0.03).sum().item<float>(), 0);
}

TEST(PseudoHuber, HasAGradientAtZero) {
  const at::Tensor a = at::zeros({1, 1, 2, 2}).requires_grad_(true);
  PseudoHuber(a, at::zeros({1, 1, 2, 2}), 0.03).sum().backward();
  EXPECT_EQ(a.grad().abs().sum().item<float>(), 0);
}

TEST(MeanSquaredError, IsPerSample) {
  const at::Tensor a = at::zeros({2, 1, 2, 2});
  const at::Tensor b = at::cat({at::full({1, 1, 2, 2}, 2.0F), at::full({1, 1, 2, 2}, -3.0F)});
  const at::Tensor loss = MeanSquaredError(a, b);
  EXPECT_EQ(loss[0].item<double>(), 4);
  EXPECT_EQ(loss[1].item<double>(), 9);
}

TEST(MakeRegressionTerms, HasATermForEachWeight) {
  common::v1::RegressionSpec spec;
  spec.set_mse_weight(2);
  LossTerms terms = MakeRegressionTerms(spec, 4, at::kCPU);
  ASSERT_EQ(terms.size(), 1);
  EXPECT_EQ(terms[0]->name(), "mse");
  EXPECT_EQ(std::string(terms[0]->figure()), "loss_mse");
  EXPECT_EQ(terms[0]->WeightAt(0), 2);
  const MicroBatch batch{.x = at::full({1, 1, 2, 2}, 2.0F)};
  EXPECT_EQ(terms[0]->PerSample(at::zeros({1, 1, 2, 2}), batch).item<double>(), 4);
  spec.set_pseudo_huber_weight(1);
  spec.set_pseudo_huber_c(0.03);
  terms = MakeRegressionTerms(spec, 4, at::kCPU);
  ASSERT_EQ(terms.size(), 2);
  EXPECT_EQ(terms[0]->name(), "pseudo_huber");
}

TEST(FeatureDistance, ComparesDirections) {
  // One tap of 2 channels at 2 positions: equal directions count nothing, opposite ones 4.
  const at::Tensor a = at::tensor({1.0F, 3.0F, 0.0F, 0.0F}).view({1, 2, 1, 2});
  const at::Tensor b = at::tensor({5.0F, -2.0F, 0.0F, 0.0F}).view({1, 2, 1, 2});
  EXPECT_NEAR(FeatureDistance({a}, {b}).item<double>(), (0.0 + 4.0) / 2, 1e-5);
  // Two taps are summed; a flat one counts as one position.
  const at::Tensor flat = at::tensor({1.0F, 0.0F}).view({1, 2});
  const at::Tensor other = at::tensor({0.0F, 1.0F}).view({1, 2});
  EXPECT_NEAR(FeatureDistance({a, flat}, {b, other}).item<double>(), 2.0 + 2.0, 1e-5);
}

TEST(FeatureDistance, IsFiniteWhereAllFeaturesAreZero) {
  const at::Tensor a = at::zeros({1, 2, 1, 1}).requires_grad_(true);
  FeatureDistance({a}, {at::ones({1, 2, 1, 1})}).sum().backward();
  EXPECT_TRUE(at::isfinite(a.grad()).all().item<bool>());
}

TEST(AdversarialLoss, AveragesOverPositionsAndScales) {
  const at::Tensor fine = at::tensor({0.0F, 2.0F, 4.0F, 6.0F}).view({1, 1, 2, 2});
  const at::Tensor coarse = at::full({1, 1, 1, 1}, -1.0F);
  auto softplus = [](double x) { return std::log1p(std::exp(x)); };
  const double real =
      ((softplus(0) + softplus(-2) + softplus(-4) + softplus(-6)) / 4 + softplus(1)) / 2;
  EXPECT_NEAR(RealLoss({fine, coarse}).item<double>(), real, 1e-6);
  const double fake =
      ((softplus(0) + softplus(2) + softplus(4) + softplus(6)) / 4 + softplus(-1)) / 2;
  EXPECT_NEAR(FakeLoss({fine, coarse}).item<double>(), fake, 1e-6);
  EXPECT_NEAR(MeanLogit({fine, coarse}).item<double>(), (3.0 - 1.0) / 2, 1e-6);
}

}  // namespace
}  // namespace d2g::distil

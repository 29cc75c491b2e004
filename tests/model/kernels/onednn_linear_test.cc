#include <ATen/core/grad_mode.h>

#include "model/kernels/onednn_linear.h"

#include <gtest/gtest.h>

namespace d2g::model {
namespace {

double Difference(const at::Tensor& a, const at::Tensor& b) {
  return ((a - b).abs().max() / b.abs().max()).item<double>();
}

// Values, gradients and the gradients of a gradient penalty, against at::linear.
TEST(OneDnnLinearTest, IsLinearUpToSecondOrder) {
  at::manual_seed(3);
  const at::Tensor x = at::randn({4, 70, 96}).requires_grad_(true);
  const at::Tensor weight = (at::randn({40, 96}) / 10).requires_grad_(true);
  const at::Tensor bias = at::randn({40}).requires_grad_(true);
  ASSERT_TRUE(UseOneDnnLinear(x));
  auto derive = [&](auto&& linear) {
    const at::Tensor y = linear();
    const auto first = torch::autograd::grad({y.pow(3).sum()}, {x, weight, bias}, {}, std::nullopt,
                                             /*create_graph=*/true);
    const auto second = torch::autograd::grad({first[0].square().sum() + first[1].square().sum()},
                                              {x, weight, bias});
    std::vector<at::Tensor> all = {y};
    all.insert(all.end(), first.begin(), first.end());
    all.insert(all.end(), second.begin(), second.end());
    return all;
  };
  const auto ours = derive([&] { return OneDnnLinear(x, weight, bias); });
  const auto atens = derive([&] { return at::linear(x, weight, bias); });
  ASSERT_EQ(ours.size(), atens.size());
  for (size_t i = 0; i < ours.size(); ++i) EXPECT_LE(Difference(ours[i], atens[i]), 1e-5) << i;
}

TEST(OneDnnLinearTest, FrozenInputsAndNoBias) {
  const at::Tensor x = at::randn({300, 96}), weight = at::randn({8, 96}).requires_grad_(true);
  OneDnnLinear(x, weight, {}).sum().backward();
  EXPECT_LE(Difference(weight.grad(), x.sum(0).expand({8, 96})), 1e-5);
  const at::NoGradGuard no_grad;
  EXPECT_FALSE(OneDnnLinear(x, weight, {}).requires_grad());
  EXPECT_FALSE(UseOneDnnLinear(x.to(at::kDouble)));
}

}  // namespace
}  // namespace d2g::model

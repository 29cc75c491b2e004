#include "worker/distil/flat_parameters.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/files/error.h"
#include "worker/distil/adamw.h"
#include "worker/distil/ema.h"

namespace d2g::distil {
namespace {

using model::TensorMap;
using testing::HasSubstr;
using testing::ThrowsMessage;

TensorMap TwoParameters() {
  return {{"a", at::tensor({1.0F, -2.0F, 0.5F})}, {"b", at::ones({2, 3})}};
}

TEST(FlatParameters, NetworkComputesWithTheFlatBuffer) {
  TensorMap network = TwoParameters();
  const FlatParameters flat(network);
  flat.values().mul_(2);
  EXPECT_TRUE(at::equal(network.at("a"), at::tensor({2.0F, -4.0F, 1.0F})));
  EXPECT_TRUE(at::equal(network.at("b"), at::full({2, 3}, 2.0F)));
}

TEST(FlatParameters, BackwardFillsTheFlatGradient) {
  TensorMap network = TwoParameters();
  FlatParameters flat(network);
  auto loss = [&] { return (network.at("a").square().sum() + 3 * network.at("b").sum()); };
  loss().backward();
  loss().backward();
  const TensorMap gradients = flat.Unflatten(flat.gradients());
  EXPECT_TRUE(at::equal(gradients.at("a"), at::tensor({4.0F, -8.0F, 2.0F})));
  EXPECT_TRUE(at::equal(gradients.at("b"), at::full({2, 3}, 6.0F)));
  flat.ZeroGradients();
  EXPECT_EQ(network.at("a").grad().abs().sum().item<float>(), 0);
}

TEST(FlatParameters, FrozenParametersGetNoGradient) {
  TensorMap network = TwoParameters();
  FlatParameters flat(network);
  flat.SetRequiresGrad(false);
  const at::Tensor x = at::ones({3}).requires_grad_(true);
  (x * network.at("a")).sum().backward();
  EXPECT_EQ(flat.gradients().abs().sum().item<float>(), 0);
  EXPECT_TRUE(at::equal(x.grad(), network.at("a")));
}

TEST(FlatParameters, FlattenNamesWhatDoesNotFit) {
  const FlatParameters flat(TwoParameters());
  auto flatten = [&](const TensorMap& named) { flat.Flatten(named, flat.values(), "ema"); };
  EXPECT_THAT(
      [&] {
        flatten({{"a", at::ones({3})}});
      },
      ThrowsMessage<model::Error>(HasSubstr("ema lacks the tensor b")));
  EXPECT_THAT(
      [&] {
        flatten({{"a", at::ones({3})}, {"b", at::ones({3, 2})}});
      },
      ThrowsMessage<model::Error>(HasSubstr("tensor b has shape [3, 2], expected [2, 3]")));
  EXPECT_THAT(
      [&] {
        flatten({{"a", at::ones({3})}, {"b", at::ones({2, 3})}, {"c", at::ones({1})}});
      },
      ThrowsMessage<model::Error>(HasSubstr("unknown tensor c")));
}

TEST(FlatParameters, FindsTheStretchOfAPrefix) {
  const FlatParameters flat(TensorMap{{"head.w", at::ones({3})},
                                      {"unet.a", at::ones({17})},
                                      {"unet.b", at::ones({2})},
                                      {"vae.w", at::ones({1})}});
  // Each part starts at a multiple of 16 elements.
  EXPECT_EQ(flat.StretchOf("head."), (std::pair<int64_t, int64_t>(0, 16)));
  EXPECT_EQ(flat.StretchOf("unet."), (std::pair<int64_t, int64_t>(16, 48)));
  EXPECT_EQ(flat.StretchOf("vae."), (std::pair<int64_t, int64_t>(64, 16)));
  EXPECT_THAT([&] { flat.StretchOf("text."); },
              ThrowsMessage<model::Error>(HasSubstr("no parameter's name starts with text.")));
}

TEST(AdamW, ScaledPrefixMovesAtItsOwnRate) {
  TensorMap network{{"a", at::ones({3})}, {"unet.p", at::ones({3})}, {"z", at::ones({3})}};
  FlatParameters flat(network);
  AdamW optimizer(flat, {.scaled_prefix = "unet.", .scale = 0.1});
  flat.gradients().fill_(0.5);
  optimizer.Step(0.01);
  // The first update of Adam is the learning rate.
  EXPECT_NEAR(network.at("a")[0].item<float>(), 0.99, 1e-6);
  EXPECT_NEAR(network.at("unet.p")[2].item<float>(), 0.999, 1e-6);
  EXPECT_NEAR(network.at("z")[0].item<float>(), 0.99, 1e-6);
  EXPECT_EQ(optimizer.steps(), 1);
  EXPECT_THAT([&] { AdamW(flat, {.scaled_prefix = "vae."}); },
              ThrowsMessage<model::Error>(HasSubstr("vae.")));
}

TEST(AdamW, AgreesWithTorch) {
  TensorMap network{{"p", at::tensor({1.0F, -2.0F, 0.5F})}};
  FlatParameters flat(network);
  AdamW optimizer(flat, {.weight_decay = 0.01});
  for (const auto& gradient :
       {std::vector{0.1F, -0.2F, 0.3F}, {1.0F, 0.5F, -0.5F}, {-0.3F, 0.0F, 0.2F}}) {
    network.at("p").mutable_grad().copy_(at::tensor(gradient));
    optimizer.Step(0.1);
  }
  // torch.optim.AdamW, lr 0.1, weight_decay 0.01, the same gradients.
  EXPECT_TRUE(
      at::allclose(network.at("p"), at::tensor({0.7750769F, -1.9725667F, 0.4287540F}), 1e-6, 1e-6))
      << network.at("p");
  EXPECT_EQ(optimizer.steps(), 3);
}

TEST(AdamW, StateGoesOnWhereItWas) {
  TensorMap first{{"p", at::tensor({1.0F, -2.0F, 0.5F})}}, second{{"p", first.at("p").clone()}};
  FlatParameters flat_first(first), flat_second(second);
  AdamW one(flat_first, {}), two(flat_second, {});
  first.at("p").mutable_grad().fill_(0.3);
  one.Step(0.1);
  two.LoadState(one.State());
  flat_second.values().copy_(flat_first.values());
  first.at("p").mutable_grad().fill_(-0.2);
  second.at("p").mutable_grad().fill_(-0.2);
  one.Step(0.1);
  two.Step(0.1);
  EXPECT_TRUE(at::equal(first.at("p"), second.at("p")));
  TensorMap state = one.State();
  state.erase("exp_avg.p");
  EXPECT_THAT([&] { two.LoadState(state); }, ThrowsMessage<model::Error>(HasSubstr("exp_avg")));
}

TEST(ClipGradientNorm, ScalesOnlyAboveTheLimit) {
  const at::Tensor gradients = at::tensor({3.0F, 4.0F});
  EXPECT_DOUBLE_EQ(ClipGradientNorm(gradients, 10), 5);
  EXPECT_TRUE(at::equal(gradients, at::tensor({3.0F, 4.0F})));
  EXPECT_DOUBLE_EQ(ClipGradientNorm(gradients, 1), 5);
  EXPECT_NEAR(gradients.norm().item<double>(), 1, 1e-6);
}

TEST(Ema, AShortRunIsNotLeftWithTheTeachersWeights) {
  TensorMap network{{"p", at::zeros({2})}};
  const FlatParameters flat(network);
  Ema ema(flat, 0.99);
  flat.values().fill_(1);
  for (int64_t step = 0; step < 60; ++step) ema.Update(step);
  EXPECT_GT(ema.State().at("p")[0].item<float>(), 0.999)
      << "at the full decay from the first step 55 % would be the start's";
  EXPECT_DOUBLE_EQ(EmaDecay(0.99, 0), 0.1);
  EXPECT_DOUBLE_EQ(EmaDecay(0.99, 890), 0.99);
  EXPECT_DOUBLE_EQ(EmaDecay(0, 5), 0);
}

TEST(Ema, FollowsTheParameters) {
  TensorMap network{{"p", at::zeros({2})}};
  const FlatParameters flat(network);
  Ema ema(flat, 0.9);
  flat.values().fill_(1);
  ema.Update(1000);
  ema.Update(1001);
  EXPECT_NEAR(ema.State().at("p")[0].item<float>(), 1 - 0.81, 1e-6);
  EXPECT_THAT([&] { Ema(flat, 1.0); }, ThrowsMessage<model::Error>(HasSubstr("ema_decay")));
}

}  // namespace
}  // namespace d2g::distil

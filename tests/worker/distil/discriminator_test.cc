#include <ATen/core/grad_mode.h>

#include "worker/distil/discriminator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/files/error.h"
#include "tests/worker/distil/small_unet.h"

namespace d2g::distil {
namespace {

using model::TensorMap;
using testing::HasSubstr;
using testing::ThrowsMessage;

struct Inputs {
  at::Tensor z = Normal({2, 4, 8, 8}, 1);
  at::Tensor x = Normal({2, 4, 8, 8}, 2);
  at::Tensor text = Normal({2, 3, 12}, 3);
};

// Gives every zero-initialised convolution a part in the output.
void Waken(const Discriminator& discriminator) {
  const at::NoGradGuard no_grad;
  uint64_t seed = 10;
  for (const auto& [name, tensor] : discriminator.parameters()) {
    if (!name.starts_with("unet.") && name.ends_with(".weight")) {
      at::Tensor(tensor).copy_(Normal(tensor.sizes(), ++seed) * 0.1);
    }
  }
}

double Change(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  return (MeanLogit(a) - MeanLogit(b)).abs().min().item<double>();
}

TEST(Discriminator, StartsAtLogitZeroOnEveryScale) {
  const Discriminator discriminator(SmallUNet(), 0, 1, at::kCPU);
  const Inputs in;
  const std::vector<at::Tensor> logits = discriminator.Forward(in.z, in.x, in.text);
  ASSERT_EQ(logits.size(), 2);
  EXPECT_EQ(logits[0].sizes(), at::IntArrayRef({2, 1, 8, 8}));
  EXPECT_EQ(logits[1].sizes(), at::IntArrayRef({2, 1, 4, 4}));
  for (const at::Tensor& map : logits) EXPECT_EQ(map.abs().max().item<float>(), 0);
}

TEST(Discriminator, FollowsTheTeachersLevelSizes) {
  for (const int64_t padding : {0, 1}) {
    model::UNetConfig config = SmallUNetConfig();
    config.downsample_padding = padding;
    const model::UNet2DConditionModel unet(
        config, model::RandomParameters(1, model::UNet2DConditionModel::ParameterShapes(config)));
    const Discriminator discriminator(unet, 0, 1, at::kCPU);
    const Inputs in;
    const auto logits = discriminator.Forward(in.z.narrow(2, 0, 7), in.x.narrow(2, 0, 7), in.text);
    EXPECT_EQ(logits[1].sizes(), at::IntArrayRef({2, 1, 3 + padding, 4}));
  }
}

TEST(Discriminator, NoiseLatentAndTextAllReachTheLogits) {
  const Discriminator discriminator(SmallUNet(), 0, 1, at::kCPU);
  Waken(discriminator);
  const Inputs in;
  const auto logits = discriminator.Forward(in.z, in.x, in.text);
  EXPECT_GT(Change(logits, discriminator.Forward(-in.z, in.x, in.text)), 1e-4);
  EXPECT_GT(Change(logits, discriminator.Forward(in.z, -in.x, in.text)), 1e-4);
  EXPECT_GT(Change(logits, discriminator.Forward(in.z, in.x, -in.text)), 1e-4);
}

TEST(Discriminator, EveryParameterLearnsOnceAwake) {
  const Discriminator discriminator(SmallUNet(), 0, 1, at::kCPU);
  Waken(discriminator);
  for (const auto& [name, tensor] : discriminator.parameters()) {
    at::Tensor(tensor).requires_grad_(true);
  }
  const Inputs in;
  RealLoss(discriminator.Forward(in.z, in.x, in.text)).sum().backward();
  for (const auto& [name, tensor] : discriminator.parameters()) {
    // Keys' biases cannot change a softmax over keys; the U-Net has none. All others must learn.
    ASSERT_TRUE(tensor.grad().defined()) << name;
    EXPECT_GT(tensor.grad().abs().sum().item<float>(), 0) << name;
  }
  EXPECT_FALSE(discriminator.parameters().contains("unet.conv_out.weight"));
}

TEST(Discriminator, HeadsReadTheFinestScales) {
  const Discriminator discriminator(SmallUNet(), 1, 1, at::kCPU);
  const Inputs in;
  const auto logits = discriminator.Forward(in.z, in.x, in.text);
  ASSERT_EQ(logits.size(), 1);
  EXPECT_EQ(logits[0].size(2), 8);
  EXPECT_THAT([] { Discriminator(SmallUNet(), 3, 1, at::kCPU); },
              ThrowsMessage<model::Error>(HasSubstr("output_scales is 3, must be 0 (all) to 2")));
}

TEST(Discriminator, TakesOddSizes) {
  const Discriminator discriminator(SmallUNet(), 0, 1, at::kCPU);
  const auto logits = discriminator.Forward(Normal({1, 4, 7, 5}, 1), Normal({1, 4, 7, 5}, 2),
                                            Normal({1, 3, 12}, 3));
  EXPECT_EQ(logits[0].size(2), 7);
  EXPECT_EQ(logits[1].size(3), 3);
}

TEST(Discriminator, ReloadsWhatWasTrained) {
  const Discriminator trained(SmallUNet(), 0, 1, at::kCPU);
  Waken(trained);
  const Inputs in;
  TensorMap saved = trained.parameters();
  const Discriminator reloaded(SmallUNet(), saved, at::kCPU);
  EXPECT_EQ(Change(trained.Forward(in.z, in.x, in.text), reloaded.Forward(in.z, in.x, in.text)), 0);
  saved.erase("noise_in.bias");
  EXPECT_THAT([&] { Discriminator(SmallUNet(), saved, at::kCPU); },
              ThrowsMessage<model::Error>(HasSubstr("lacks the tensor noise_in.bias")));
}

}  // namespace
}  // namespace d2g::distil

// The U-Net against diffusers.
#include <ATen/core/grad_mode.h>

#include "model/files/json_config.h"
#include "model/network/unet_2d_condition.h"
#include "model/weights/random_weights.h"
#include "tests/model/golden.h"

namespace d2g::model {
namespace {

constexpr uint64_t kSeed = 1;
constexpr double kTolerance = 1e-4;

UNet2DConditionModel RandomModel(const std::string& name) {
  const UNetConfig config = UNetConfig::FromFile(GoldenFolder(name) + "/config.json");
  return UNet2DConditionModel(
      config, RandomParameters(kSeed, UNet2DConditionModel::ParameterShapes(config)));
}

TEST(UNetGoldenTest, AgreesWithDiffusers) {
  for (const std::string& name : GoldenCases("unet")) {
    SCOPED_TRACE(name);
    const TensorMap golden = Golden(name);
    UNet2DConditionModel model = RandomModel(name);
    const at::Tensor& sample = golden.at("sample");
    const at::Tensor& hidden = golden.at("hidden");
    const at::Tensor& timestep = golden.at("timestep");
    EXPECT_LE(RelativeDifference(model.Forward(sample, timestep, hidden), golden.at("output")),
              kTolerance);
    const at::NoGradGuard no_grad;
    EXPECT_LE(RelativeDifference(model.Forward(sample, timestep, hidden), golden.at("output")),
              kTolerance);
    model.PrepareForInference();
    EXPECT_LE(RelativeDifference(model.Forward(sample, timestep, hidden), golden.at("output")),
              kTolerance);
    if (timestep.numel() == 1) {
      const at::Tensor output =
          model.Forward(sample, timestep.item<double>(), model.PrepareConditions({hidden}));
      EXPECT_LE(RelativeDifference(output, golden.at("output")), kTolerance);
    }
  }
}

TEST(UNetGoldenTest, LoadsHalfPrecisionShards) {
  const std::string folder = GoldenFolder("unet_folder");
  ASSERT_TRUE(std::filesystem::exists(folder + "/diffusion_pytorch_model.safetensors.index.json"));
  const TensorMap golden = Golden("unet_folder");
  const UNet2DConditionModel model = UNet2DConditionModel::Load(folder);
  const at::Tensor output =
      model.Forward(golden.at("sample"), golden.at("timestep"), golden.at("hidden"));
  EXPECT_EQ(output.scalar_type(), at::kFloat);
  EXPECT_LE(RelativeDifference(output, golden.at("output")), kTolerance);
}

// The network that the discriminator and the trainer differentiate gives what inference gives.
TEST(UNetGoldenTest, GradientsAgreeWithFiniteDifferences) {
  const TensorMap golden = Golden("unet/odd_size");
  const UNetConfig config = UNetConfig::FromFile(GoldenFolder("unet/odd_size") + "/config.json");
  const UNet2DConditionModel model(
      config, RandomParameters(kSeed, UNet2DConditionModel::ParameterShapes(config)), at::kDouble);
  const at::Tensor weight = model.parameters().at("conv_in.weight");
  weight.requires_grad_(true);
  at::Tensor sample = golden.at("sample").to(at::kDouble).requires_grad_(true);
  auto loss = [&] {
    return model.Forward(sample, 300, golden.at("hidden").to(at::kDouble)).square().sum();
  };
  const at::Tensor value = loss();
  const auto gradients = torch::autograd::grad({value}, {sample, weight}, {}, true, true);
  // The squared norm of the gradient, differentiated again: what R1 does.
  const auto second =
      torch::autograd::grad({gradients[0].square().sum()}, {weight}, {}, std::nullopt, false);
  ASSERT_TRUE(second[0].defined());

  const double step = 1e-5;
  const at::Tensor direction = at::randn_like(weight);
  auto shifted = [&](double by) {
    {
      const at::NoGradGuard no_grad;
      weight.add_(direction, by);
    }
    const at::Tensor moved = loss();
    const auto input = torch::autograd::grad({moved}, {sample}, {}, false, false);
    {
      const at::NoGradGuard no_grad;
      weight.sub_(direction, by);
    }
    return std::pair(moved.item<double>(), input[0].square().sum().item<double>());
  };
  const auto up = shifted(step), down = shifted(-step);
  const double first_order = (up.first - down.first) / (2 * step);
  const double second_order = (up.second - down.second) / (2 * step);
  // Relative to the lengths: a direction may lie almost across a gradient.
  const auto expect_near = [&](const at::Tensor& gradient, double difference) {
    EXPECT_NEAR((gradient * direction).sum().item<double>(), difference,
                1e-6 * (gradient.norm() * direction.norm()).item<double>());
  };
  expect_near(gradients[1], first_order);
  expect_near(second[0], second_order);
}

TEST(UNetGoldenTest, TapsAddAndReport) {
  const at::NoGradGuard no_grad;
  const TensorMap golden = Golden("unet/sd15_tenth");
  const UNet2DConditionModel model = RandomModel("unet/sd15_tenth");
  const at::Tensor& sample = golden.at("sample");
  const at::Tensor& hidden = golden.at("hidden");

  std::vector<at::Tensor> up, down;
  UNetTaps taps;
  taps.up_features = &up;
  taps.down_features = &down;
  const std::vector<std::vector<int64_t>> levels = {
      {2, 32, 16, 16}, {2, 32, 8, 8}, {2, 64, 4, 4}, {2, 128, 2, 2}};
  for (const auto& shape : levels) taps.add_at_level.push_back(at::zeros(shape));
  EXPECT_EQ(RelativeDifference(model.Forward(sample, 501, hidden, &taps),
                               model.Forward(sample, 501, hidden)),
            0);
  ASSERT_EQ(up.size(), 4u);
  ASSERT_EQ(down.size(), 4u);
  EXPECT_EQ(up[0].sizes(), at::IntArrayRef({2, 128, 2, 2}));
  EXPECT_EQ(up[3].sizes(), at::IntArrayRef({2, 32, 16, 16}));
  EXPECT_EQ(down[1].sizes(), at::IntArrayRef({2, 64, 8, 8}));

  for (size_t level = 0; level < levels.size(); ++level) {
    UNetTaps one;
    one.add_at_level.resize(level + 1);
    one.add_at_level[level] = at::ones(levels[level]);
    EXPECT_GT(RelativeDifference(model.Forward(sample, 501, hidden, &one),
                                 model.Forward(sample, 501, hidden)),
              1e-4)
        << level;
    one.add_at_level[level] = at::ones({1, 1, 1, 1});
    EXPECT_THROW(model.Forward(sample, 501, hidden, &one), Error);
  }
}

TEST(RandomWeightsTest, AreTheSameInPython) {
  for (const auto& [name, expected] : Golden("random_weights")) {
    const at::Tensor made = RandomParameter(5, name, expected.sizes().vec());
    EXPECT_TRUE(at::equal(made, expected)) << name;
  }
}

}  // namespace
}  // namespace d2g::model

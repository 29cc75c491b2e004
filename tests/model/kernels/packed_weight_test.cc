#include "model/kernels/packed_weight.h"

#include <gtest/gtest.h>

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include "model/network/layers.h"

namespace d2g::model {
namespace {

double Difference(const at::Tensor& a, const at::Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  return ((a - b).abs().max() / b.abs().max()).item<double>();
}

constexpr double kTolerance = 3e-6;

class PackedWeightTest : public ::testing::TestWithParam<int> {
 protected:
  PackedWeightTest() : threads_(at::get_num_threads()) {
    at::manual_seed(2);
    at::set_num_threads(GetParam());
  }
  ~PackedWeightTest() override { at::set_num_threads(threads_); }

  const at::NoGradGuard no_grad_;
  const int threads_;
};
INSTANTIATE_TEST_SUITE_P(Threads, PackedWeightTest, ::testing::Values(1, 3));

Conv2d Convolution(int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t padding) {
  const TensorMap tensors = {{"conv.weight", at::randn({out, in, kernel, kernel})},
                             {"conv.bias", at::randn({out})}};
  ParameterReader reader(tensors, "test", at::kFloat);
  Conv2d conv(reader, "conv", in, out, kernel, stride, padding);
  for (const auto& weight : reader.packed_weights()) weight->Pack();
  return conv;
}

TEST_P(PackedWeightTest, LinearIsAtens) {
  for (const auto& [rows, in, out] : std::vector<std::array<int64_t, 3>>{
           {1, 1, 1}, {3, 5, 7}, {8, 48, 48}, {13, 96, 100}, {77, 1300, 52}, {300, 320, 333}}) {
    const at::Tensor x = at::randn({rows, in}), weight = at::randn({out, in}),
                     bias = at::randn({out}), added = at::randn({rows, out});
    PackedWeight with(weight, bias), without(weight, {});
    EXPECT_FALSE(with.Takes(x));
    with.Pack();
    without.Pack();
    ASSERT_TRUE(with.Takes(x));
    const at::Tensor expected = at::linear(x, weight);
    EXPECT_LE(Difference(without.Linear(x, {}), expected), kTolerance);
    EXPECT_LE(Difference(with.Linear(x, {}), expected + bias), kTolerance);
    EXPECT_LE(Difference(with.Linear(x, added), expected + bias + added), kTolerance);
    // Tokens whose rows do not lie one after the other.
    const at::Tensor apart = x.t().contiguous().t().unsqueeze(0);
    EXPECT_LE(Difference(with.Linear(apart, {}), (expected + bias).unsqueeze(0)), kTolerance);
  }
  EXPECT_THROW(PackedWeight(at::randn({2, 3}), {}).Linear(at::randn({1, 4}), {}), c10::Error);
}

TEST_P(PackedWeightTest, ConvolutionIsAtens) {
  struct Case {
    int64_t batch, in, out, height, width, kernel, stride, padding;
  };
  const std::vector<Case> cases = {
      {1, 4, 48, 8, 8, 3, 1, 1},      {2, 48, 4, 8, 8, 3, 1, 1},    {3, 48, 96, 8, 8, 3, 2, 1},
      {1, 96, 50, 5, 7, 3, 1, 1},     {2, 16, 64, 9, 3, 3, 1, 1},   {1, 144, 48, 1, 1, 3, 1, 1},
      {1, 33, 7, 6, 5, 3, 1, 1},      {2, 32, 32, 11, 13, 3, 1, 1}, {1, 48, 48, 8, 8, 1, 1, 0},
      {2, 20, 30, 7, 6, 1, 2, 0},     {1, 8, 16, 9, 9, 5, 1, 2},    {1, 3, 8, 12, 10, 7, 3, 3},
      {1, 192, 144, 40, 24, 3, 1, 1}, {1, 1, 1, 3, 3, 3, 1, 0}};
  for (const Case& c : cases) {
    const Conv2d conv = Convolution(c.in, c.out, c.kernel, c.stride, c.padding);
    const at::Tensor x = at::randn({c.batch, c.in, c.height, c.width});
    ASSERT_TRUE(conv.packed->Takes(x));
    const at::Tensor expected =
        at::conv2d(x.to(at::kDouble), conv.weight.to(at::kDouble), conv.bias.to(at::kDouble),
                   {c.stride, c.stride}, at::IntArrayRef{c.padding, c.padding});
    const at::Tensor added = at::randn(expected.sizes());
    for (const at::Tensor& in : {x, x.contiguous(at::MemoryFormat::ChannelsLast)}) {
      EXPECT_LE(Difference(conv(in), expected), kTolerance) << x.sizes();
      EXPECT_LE(Difference(conv(in, added), expected + added), kTolerance) << x.sizes();
    }
  }
}

TEST_P(PackedWeightTest, ResamplingIsAtens) {
  for (const int64_t channels : {int64_t{12}, int64_t{32}}) {
    const at::Tensor x = at::randn({2, channels, 5, 4});
    Upsample up;
    up.conv = Convolution(channels, 20, 3, 1, 1);
    for (const auto& [height, width] : std::vector<std::pair<int64_t, int64_t>>{{10, 8}, {9, 7}}) {
      const at::Tensor expected =
          at::conv2d(at::upsample_nearest2d(x, at::IntArrayRef{height, width}), up.conv.weight,
                     up.conv.bias, 1, 1);
      EXPECT_LE(Difference(up(x, height, width), expected), kTolerance);
    }
    for (const int64_t padding : {0, 1}) {
      Downsample down;
      down.conv = Convolution(channels, 20, 3, 2, padding);
      const at::Tensor padded = padding == 0 ? at::constant_pad_nd(x, {0, 1, 0, 1}) : x;
      const at::Tensor expected =
          at::conv2d(padded, down.conv.weight, down.conv.bias, {2, 2}, {padding, padding});
      EXPECT_LE(Difference(down(x), expected), kTolerance);
    }
  }
}

TEST_P(PackedWeightTest, JoinsChannels) {
  const at::Tensor x = at::randn({2, 5, 3, 4}), y = at::randn({2, 20, 3, 4});
  const auto last = at::MemoryFormat::ChannelsLast;
  EXPECT_TRUE(at::equal(kernels::ConcatChannels(x.contiguous(last), y.contiguous(last)),
                        at::cat({x, y}, 1)));
  EXPECT_TRUE(at::equal(kernels::ConcatChannels(x, y.contiguous(last)), at::cat({x, y}, 1)));
}

TEST(PackedWeightLifeTest, FollowsTheWeightWhenPackedAgain) {
  const at::NoGradGuard no_grad;
  const at::Tensor weight = at::ones({4, 4}), x = at::ones({1, 4});
  PackedWeight packed(weight, {});
  packed.Pack();
  weight.fill_(2);
  EXPECT_EQ(packed.Linear(x, {})[0][0].item<float>(), 4);
  packed.Pack();
  EXPECT_EQ(packed.Linear(x, {})[0][0].item<float>(), 8);
}

TEST(PackedWeightLifeTest, GradientsGoThroughTheWeight) {
  const Conv2d conv = Convolution(16, 16, 3, 1, 1);
  const at::Tensor x = at::randn({1, 16, 4, 4}).requires_grad_(true);
  EXPECT_FALSE(conv.packed->Takes(x));
  EXPECT_TRUE(conv(x).requires_grad());
}

TEST(PackedWeightLifeTest, GivesTheWeightUp) {
  const at::NoGradGuard no_grad;
  at::Tensor weight = at::ones({4, 4});
  PackedWeight packed(weight, {});
  packed.Pack(/*keep=*/false);
  EXPECT_EQ(weight.numel(), 0);
  EXPECT_EQ(packed.Linear(at::ones({1, 4}), {})[0][0].item<float>(), 4);
  EXPECT_THROW(packed.Pack(), c10::Error);
}

TEST(PackedWeightLifeTest, LeavesOtherDtypesAlone) {
  const at::NoGradGuard no_grad;
  PackedWeight packed(at::ones({4, 4}, at::kHalf), {});
  packed.Pack();
  EXPECT_FALSE(packed.packed());
  EXPECT_FALSE(packed.Takes(at::ones({1, 4})));
}

}  // namespace
}  // namespace d2g::model

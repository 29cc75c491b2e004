#include "model/kernels/cpu_kernels.h"

#include <gtest/gtest.h>

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <limits>

#include "model/kernels/channels_last.h"
#include "model/kernels/operators.h"

namespace d2g::model {
namespace {

class CpuKernelsTest : public ::testing::Test {
 protected:
  CpuKernelsTest() { at::manual_seed(1); }
  const at::NoGradGuard no_grad_;
};

double Difference(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

TEST_F(CpuKernelsTest, GroupNormIsAtens) {
  const std::vector<std::vector<int64_t>> shapes = {
      {3, 16, 8, 8}, {2, 8, 5, 7}, {1, 24, 1, 1}, {2, 8, 40}, {4, 8, 64, 3}};
  for (const auto& shape : shapes) {
    const at::Tensor x = at::randn(shape) * 3 + 20;
    const at::Tensor weight = at::randn({shape[1]}), bias = at::randn({shape[1]});
    const at::Tensor normed = at::group_norm(x, 4, weight, bias, 1e-5);
    EXPECT_LE(Difference(FusedGroupNorm(x, 4, weight, bias, 1e-5, {}, false), normed), 2e-5);
    const at::Tensor last = shape.size() == 4 ? x.contiguous(at::MemoryFormat::ChannelsLast) : x;
    const at::Tensor ours = FusedGroupNorm(last, 4, weight, bias, 1e-5, {}, false);
    EXPECT_LE(Difference(ours, normed), 2e-5);
    EXPECT_EQ(IsChannelsLast(ours), IsChannelsLast(last));
    for (const int64_t rows : {int64_t{1}, shape[0]}) {
      const at::Tensor shift = at::randn({rows, shape[1]});
      std::vector<int64_t> broadcast = {rows, shape[1]};
      broadcast.resize(shape.size(), 1);
      const at::Tensor expected =
          at::silu(at::group_norm(x + shift.view(broadcast), 4, weight, bias, 1e-5));
      for (const at::Tensor& in : {x, last}) {
        EXPECT_LE(Difference(FusedGroupNorm(in, 4, weight, bias, 1e-5, shift, true), expected),
                  2e-5);
      }
    }
  }
}

// One picture of several threads' worth of points.
TEST_F(CpuKernelsTest, GroupNormIsSharedByThreads) {
  const int threads = at::get_num_threads();
  at::set_num_threads(3);
  const at::Tensor x =
      (at::randn({1, 40, 50, 41}) * 2 - 5).contiguous(at::MemoryFormat::ChannelsLast);
  const at::Tensor weight = at::randn({40}), bias = at::randn({40}), shift = at::randn({1, 40});
  const at::Tensor expected =
      at::silu(at::group_norm(x + shift.view({1, 40, 1, 1}), 8, weight, bias, 1e-5));
  EXPECT_LE(Difference(FusedGroupNorm(x, 8, weight, bias, 1e-5, shift, true), expected), 2e-5);
  at::set_num_threads(threads);
}

TEST_F(CpuKernelsTest, LayerNormIsAtens) {
  for (const int64_t width : {1, 7, 96, 1300}) {
    const at::Tensor x = at::randn({3, 5, width}) * 3 + 20;
    const at::Tensor weight = at::randn({width}), bias = at::randn({width});
    EXPECT_LE(Difference(FusedLayerNorm(x, weight, bias, 1e-5),
                         at::layer_norm(x, {width}, weight, bias, 1e-5)),
              2e-5);
    EXPECT_LE(Difference(FusedLayerNorm(x, {}, {}, 1e-5), at::layer_norm(x, {width})), 2e-5);
  }
}

TEST_F(CpuKernelsTest, GegluIsAtens) {
  for (const int64_t width : {1, 7, 16, 100}) {
    const at::Tensor x = at::randn({3, 5, 2 * width}) * 4;
    const auto halves = x.chunk(2, -1);
    const at::Tensor out = FusedGeglu(x);
    EXPECT_EQ(out.sizes(), halves[0].sizes());
    EXPECT_LE(Difference(out, halves[0] * at::gelu(halves[1])), 2e-5);
  }
}

TEST_F(CpuKernelsTest, AttentionIsAtens) {
  for (const auto& [queries, keys, width] : std::vector<std::array<int64_t, 3>>{
           {16, 16, 24}, {1, 1, 1}, {5, 128, 40}, {64, 77, 17}, {3, 385, 9}, {130, 1000, 80}}) {
    const at::Tensor q = 3 * at::randn({2, queries, 3, width}).transpose(1, 2);
    const at::Tensor k = 3 * at::randn({2, 3, keys, width});
    const at::Tensor v = at::randn({2, keys, 3, width}).transpose(1, 2);
    at::Tensor hides =
        at::zeros({queries, keys}).masked_fill(at::rand({queries, keys}) < 0.5, -INFINITY);
    hides.select(1, 0).zero_();
    for (const at::Tensor& mask : {at::Tensor(), hides, at::randn({queries, keys})}) {
      const at::Tensor expected = at::scaled_dot_product_attention(
          q.to(at::kDouble), k.to(at::kDouble), v.to(at::kDouble),
          mask.defined() ? std::optional(mask.to(at::kDouble)) : std::nullopt);
      EXPECT_LE(Difference(FusedAttention(q, k, v, mask), expected.transpose(1, 2).flatten(2)),
                3e-5);
    }
  }
}

// A diverging network must be seen, not smoothed over.
TEST_F(CpuKernelsTest, NotANumberStays) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  at::Tensor x = at::randn({1, 8, 4, 4});
  x[0][0][0][0] = nan;
  const at::Tensor one = at::ones({8});
  EXPECT_TRUE(FusedGroupNorm(x, 4, one, one, 1e-5, {}, true)[0][0].isnan().all().item<bool>());
  at::Tensor gated = at::randn({1, 32});
  gated[0][20] = nan;
  EXPECT_TRUE(FusedGeglu(gated)[0][4].isnan().item<bool>());
  // In fp32 by our own loops, in bfloat16 by LibTorch's form.
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    for (const int64_t keys : {1, 4, 7, 8, 15, 16, 17, 100}) {
      at::Tensor q = at::randn({1, 1, 20'000, 8}).to(dtype);
      q[0][0][2][3] = nan;
      const at::Tensor attended = kernels::Attention(q, at::randn({1, 1, keys, 8}).to(dtype),
                                                     at::ones({1, 1, keys, 8}).to(dtype));
      EXPECT_TRUE(attended[0][0][2].isnan().all().item<bool>()) << keys << " keys of " << dtype;
      EXPECT_FALSE(attended[0][0][1].isnan().any().item<bool>()) << keys << " keys of " << dtype;
    }
  }
  // Keys, as many as a block has, and more.
  for (const int64_t bad : {1, 383, 384, 385, 400}) {
    at::Tensor k = at::randn({1, 1, 400, 8});
    k.slice(2, 0, bad).fill_(nan);
    const at::Tensor q = at::randn({1, 1, 40, 8}), v = at::ones({1, 1, 400, 8});
    EXPECT_TRUE(kernels::Attention(q, k, v).isnan().all().item<bool>()) << bad << " keys";
  }
}

TEST_F(CpuKernelsTest, ExtremesDoNotOverflow) {
  const at::Tensor gated = at::tensor({1.0f, 1.0f, 1.0f, -300.0f, 300.0f, 0.0f}).view({1, 6});
  EXPECT_LE(Difference(FusedGeglu(gated), at::tensor({0.0f, 300.0f, 0.0f}).view({1, 3})), 1e-4);
  const at::Tensor weight = at::full({4}, 200.0f);
  const at::Tensor x = at::randn({1, 4, 4, 4});
  EXPECT_LE(Difference(FusedGroupNorm(x, 2, weight, weight, 1e-5, {}, true),
                       at::silu(at::group_norm(x, 2, weight, weight, 1e-5))),
            1e-3);
  const at::Tensor q = at::full({1, 1, 1, 4}, 100.0f);
  const at::Tensor k =
      at::stack({at::full({4}, 100.0f), at::full({4}, -100.0f)}).view({1, 1, 2, 4});
  const at::Tensor v =
      at::tensor({1.0f, 2.0f}).view({1, 1, 2, 1}).expand({1, 1, 2, 4}).contiguous();
  EXPECT_LE(Difference(FusedAttention(q, k, v), at::ones({1, 1, 4})), 1e-6);
}

}  // namespace
}  // namespace d2g::model

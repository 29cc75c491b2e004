#include "worker/distil/sequential_net.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/files/error.h"
#include "model/files/json_config.h"
#include "worker/distil/regression.h"

namespace d2g::distil {
namespace {

using model::TensorMap;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

constexpr char kConfig[] = R"({"_class_name": "SequentialNet", "version": 1, "image_channels": 1,
  "image_size": 4, "layers": [
  {"type": "conv2d", "in_channels": 1, "out_channels": 2, "kernel_size": 3, "stride": 1,
   "padding": 1},
  {"type": "group_norm", "num_groups": 1, "num_channels": 2, "eps": 1e-5},
  {"type": "relu"}, {"type": "max_pool2d", "kernel_size": 2}, {"type": "avg_pool_global"},
  {"type": "flatten"}, {"type": "linear", "in_features": 2, "out_features": 3}],
  "taps": {"logits": 6, "early": 2, "pooled": 3},
  "labels": [{"name": "boot", "words": ["boot"], "size": {"threshold": 1}}]})";

TensorMap Weights() {
  return {{"layers.0.weight", at::arange(18, at::kFloat).view({2, 1, 3, 3}) / 9 - 1},
          {"layers.0.bias", at::tensor({0.5F, -0.5F})},
          {"layers.1.weight", at::tensor({1.0F, 2.0F})},
          {"layers.1.bias", at::tensor({0.0F, 0.1F})},
          {"layers.6.weight", at::tensor({1.0F, 2.0F, -1.0F, 0.5F, 0.0F, 3.0F}).view({3, 2})},
          {"layers.6.bias", at::tensor({0.0F, 1.0F, -1.0F})}};
}

model::SequentialConfig Config(const std::string& text) {
  return model::SequentialConfig::FromJson(model::ParseJson(text, "config.json"));
}

std::string Replace(std::string text, const std::string& from, const std::string& to) {
  return text.replace(text.find(from), from.size(), to);
}

TEST(SequentialNet, RunsItsLayersInOrder) {
  const TensorMap w = Weights();
  const SequentialNet net(Config(kConfig), w);
  EXPECT_THAT(net.config().tap_names, ElementsAre("early", "pooled", "logits"));
  ASSERT_EQ(net.labels().size(), 1);
  EXPECT_EQ(net.labels()[0].name, "boot");
  const at::Tensor x = at::arange(16, at::kFloat).view({1, 1, 4, 4}) / 8 - 1;
  const std::vector<at::Tensor> taps = net.Taps(x, {"logits", "early"});
  at::Tensor h = at::conv2d(x, w.at("layers.0.weight"), w.at("layers.0.bias"), 1, 1);
  h = at::group_norm(h, 1, w.at("layers.1.weight"), w.at("layers.1.bias"), 1e-5).relu();
  EXPECT_TRUE(at::allclose(taps[1], h));
  const at::Tensor pooled = at::max_pool2d(h, {2, 2}).mean({2, 3});
  EXPECT_TRUE(
      at::allclose(taps[0], at::linear(pooled, w.at("layers.6.weight"), w.at("layers.6.bias"))));
}

TEST(SequentialNet, RefusesWhatDoesNotFit) {
  auto expect = [](const std::string& config, const TensorMap& weights, const char* message) {
    EXPECT_THAT([&] { SequentialNet(Config(config), weights); },
                ThrowsMessage<model::Error>(HasSubstr(message)));
  };
  expect("[]", Weights(), "not a JSON object");
  expect(Replace(kConfig, "\"version\": 1", "\"version\": 2"), Weights(), "version 1");
  expect(Replace(kConfig, "\"relu\"", "\"gelu\""), Weights(), "layer 2 has the unknown type");
  expect(Replace(kConfig, "\"logits\": 6", "\"logits\": 7"), Weights(), "layer 7 of 7");
  expect(Replace(kConfig, "\"out_features\": 3", "\"out_features\": 4"), Weights(),
         "layers.6.weight");
  expect(Replace(kConfig, "\"num_groups\": 1", "\"num_groups\": 3"), Weights(),
         "layer 1: num_groups must divide");
  TensorMap missing = Weights(), extra = Weights();
  missing.erase("layers.1.bias");
  extra["layers.9.bias"] = at::ones({1});
  expect(kConfig, missing, "1 missing (layers.1.bias)");
  expect(kConfig, extra, "1 unexpected (layers.9.bias)");
  const SequentialNet net(Config(kConfig), Weights());
  EXPECT_THAT(
      [&] {
        net.Taps(at::zeros({1, 3, 4, 4}), {"logits"});
      },
      ThrowsMessage<model::Error>(HasSubstr("3 channels")));
  EXPECT_THAT(
      [&] {
        net.Taps(at::zeros({1, 1, 4, 4}), {"tap9"});
      },
      ThrowsMessage<model::Error>(HasSubstr("tap9")));
}

TEST(FeatureTerm, LeavesOutTheLogitsAndReachesItsInput) {
  auto net = std::make_shared<const SequentialNet>(Config(kConfig), Weights());
  const auto term = MakeFeatureTerm(2.5, net, 1);
  EXPECT_EQ(term->WeightAt(0), 2.5);
  const at::Tensor b = at::arange(32, at::kFloat).view({2, 1, 4, 4}).sin();
  const MicroBatch batch{.x = b};
  EXPECT_EQ(term->PerSample(b, batch).sum().item<float>(), 0);
  const at::Tensor a = b.roll(1, 3).requires_grad_(true);
  const at::Tensor loss = term->PerSample(a, batch);
  EXPECT_EQ(loss.numel(), 2);
  EXPECT_GT(loss.min().item<float>(), 0);
  loss.sum().backward();
  EXPECT_GT(a.grad().abs().sum().item<float>(), 0);
  EXPECT_THAT([&] { MakeFeatureTerm(1, net, 4); },
              ThrowsMessage<model::Error>(HasSubstr("reads 1 channels")));
}

}  // namespace
}  // namespace d2g::distil

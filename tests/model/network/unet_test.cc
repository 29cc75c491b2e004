// A U-Net's parameters, inputs, conditions and gradients. What it computes is compared with
// diffusers in unet_golden_test.cc and by tools/parity/unet_cases.py.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include "model/network/unet_2d_condition.h"
#include "model/weights/random_weights.h"
#include "tests/model/temp_folder.h"

namespace d2g::model {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr const char* kTiny = R"({"block_out_channels":[8,8],"norm_num_groups":4,
    "down_block_types":["DownBlock2D","CrossAttnDownBlock2D"],
    "up_block_types":["CrossAttnUpBlock2D","UpBlock2D"],"layers_per_block":1,
    "cross_attention_dim":8,"attention_head_dim":2})";

TEST(UNetTest, WrongParametersAreNamed) {
  const UNetConfig config = UNetConfig::FromJson(kTiny, "tiny");
  TensorMap parameters = RandomParameters(1, UNet2DConditionModel::ParameterShapes(config));
  EXPECT_EQ(MessageOf([&] { UNet2DConditionModel(config, parameters); }), "");
  parameters.erase("conv_out.bias");
  parameters["conv_in.weight"] = at::zeros({8, 4, 1, 1});
  parameters["time_embedding.linear_1.bias"] = at::zeros({32}, at::kLong);
  parameters["mid_block.surplus"] = at::zeros({1});
  EXPECT_THAT(
      MessageOf([&] { UNet2DConditionModel(config, parameters); }),
      AllOf(HasSubstr("1 missing (conv_out.bias)"), HasSubstr("conv_in.weight is [8, 4, 1, 1]"),
            HasSubstr("time_embedding.linear_1.bias is I64"),
            HasSubstr("1 unexpected (mid_block.surplus)")));
}

TEST(UNetTest, CopyParametersIsAllOrNothing) {
  const UNetConfig config = UNetConfig::FromJson(kTiny, "tiny");
  UNet2DConditionModel model(config,
                             RandomParameters(1, UNet2DConditionModel::ParameterShapes(config)));
  model.PrepareForInference();
  TensorMap other = RandomParameters(2, UNet2DConditionModel::ParameterShapes(config));
  const at::Tensor bias = other.at("conv_out.bias");
  other.erase("conv_out.bias");
  const at::Tensor before = model.parameters().at("conv_in.weight").clone();
  EXPECT_THAT(MessageOf([&] { model.CopyParametersFrom(other); }), HasSubstr("conv_out.bias"));
  EXPECT_TRUE(at::equal(model.parameters().at("conv_in.weight"), before));

  other["conv_out.bias"] = bias;
  model.CopyParametersFrom(other);
  const UNet2DConditionModel fresh(config, other);
  const at::NoGradGuard no_grad;
  const at::Tensor sample = at::randn({1, 4, 4, 4}), hidden = at::randn({1, 3, 8});
  EXPECT_TRUE(
      at::allclose(model.Forward(sample, 5, hidden), fresh.Forward(sample, 5, hidden), 1e-5, 1e-5));
}

TEST(UNetTest, BadShapesAreNamed) {
  const UNetConfig config = UNetConfig::FromJson(kTiny, "tiny");
  const UNet2DConditionModel model(
      config, RandomParameters(1, UNet2DConditionModel::ParameterShapes(config)));
  const at::Tensor sample = at::zeros({2, 4, 4, 4}), hidden = at::zeros({2, 3, 8});
  EXPECT_THAT(MessageOf([&] {
                model.Forward(at::zeros({2, 3, 4, 4}), 1, hidden);
              }),
              HasSubstr("sample is [2, 3, 4, 4]"));
  EXPECT_THAT(MessageOf([&] {
                model.Forward(sample, 1, at::zeros({2, 3, 9}));
              }),
              HasSubstr("encoder_hidden_states is [2, 3, 9]"));
  EXPECT_THAT(MessageOf([&] {
                model.Forward(sample, 1, at::zeros({1, 3, 8}));
              }),
              HasSubstr("encoder_hidden_states of 1 rows for a batch of 2"));
  EXPECT_THAT(MessageOf([&] {
                model.Forward(at::zeros({0, 4, 4, 4}), 1, hidden);
              }),
              HasSubstr("sample is [0, 4, 4, 4]"));
  EXPECT_THAT(MessageOf([&] { model.Forward(sample, 1, at::Tensor()); }),
              HasSubstr("needs encoder_hidden_states"));
  EXPECT_THAT(MessageOf([&] { model.Forward(sample, at::arange(3), hidden); }),
              HasSubstr("3 timesteps for a batch of 2"));
}

// Everything that a time embedding can be made of, with cross attention alone at one level.
constexpr const char* kConditioned = R"({"block_out_channels":[8,16],"norm_num_groups":4,
    "down_block_types":["CrossAttnDownBlock2D","CrossAttnDownBlock2D"],"attention_head_dim":2,
    "up_block_types":["CrossAttnUpBlock2D","UpBlock2D"],"layers_per_block":1,
    "cross_attention_dim":8,"only_cross_attention":[false,true],"time_cond_proj_dim":3,
    "class_embed_type":"projection","addition_embed_type":"text_time","addition_time_embed_dim":4,
    "projection_class_embeddings_input_dim":15,"time_embedding_act_fn":"mish",
    "timestep_post_act":"gelu","resnet_time_scale_shift":"scale_shift","encoder_hid_dim":5})";

UNet2DConditionModel Model(const char* json, const at::TensorOptions& options = at::kFloat) {
  const UNetConfig config = UNetConfig::FromJson(json, "config.json");
  return UNet2DConditionModel(
      config, RandomParameters(1, UNet2DConditionModel::ParameterShapes(config)), options);
}

UNetConditions AllConditions(int64_t rows, const at::TensorOptions& options = at::kFloat) {
  return {at::randn({rows, 3, 5}, options), at::randn({rows, 7}, options),
          at::randint(512, {rows, 2}, at::kLong), at::randn({rows, 15}, options),
          at::randn({rows, 3}, options)};
}

double Difference(const at::Tensor& a, const at::Tensor& b) {
  if (a.sizes() != b.sizes()) return 1e30;
  return (a - b).abs().max().item<double>();
}

TEST(UNetTest, GuidanceHalvesShareTheSample) {
  const at::NoGradGuard no_grad;
  for (const char* json : {kTiny, kConditioned}) {
    UNet2DConditionModel model = Model(json);
    const at::Tensor sample = at::randn({2, 4, 5, 6});
    const bool conditioned = json == kConditioned;
    const UNetConditions conditions =
        conditioned ? AllConditions(6) : UNetConditions{at::randn({6, 3, 8})};
    const at::Tensor expected =
        model.Forward(at::cat({sample, sample, sample}), at::full({1}, 250.5), conditions);
    EXPECT_LE(
        Difference(model.Forward(sample, 250.5, model.PrepareConditions(conditions)), expected),
        1e-5);
    model.PrepareForInference();
    EXPECT_LE(
        Difference(model.Forward(sample, 250.5, model.PrepareConditions(conditions)), expected),
        1e-5);
  }
}

TEST(UNetTest, OneRowOfAConditionServesAll) {
  const at::NoGradGuard no_grad;
  const UNet2DConditionModel model = Model(kConditioned);
  const at::Tensor sample = at::randn({2, 4, 4, 4});
  UNetConditions one = AllConditions(1);
  one.encoder_hidden_states = one.encoder_hidden_states.repeat({2, 1, 1});
  const UNetConditions two{one.encoder_hidden_states, one.text_embeds.repeat({2, 1}),
                           one.time_ids.repeat({2, 1}), one.class_labels.repeat({2, 1}),
                           one.timestep_cond.repeat({2, 1})};
  const at::Tensor timesteps = at::tensor({7, 900}, at::kInt);
  EXPECT_LE(
      Difference(model.Forward(sample, timesteps, one), model.Forward(sample, timesteps, two)),
      1e-5);
}

// Weights that had to be converted exist in their packed form alone.
TEST(UNetTest, RunsOnPackedWeightsAlone) {
  const at::NoGradGuard no_grad;
  const TempFolder folder;
  folder.Write("config.json", kConditioned);
  TensorMap halves = RandomParameters(
      1, UNet2DConditionModel::ParameterShapes(UNetConfig::FromJson(kConditioned, "config.json")));
  for (auto& [name, tensor] : halves) tensor = tensor.to(at::kHalf);
  WriteSafetensors(folder / "diffusion_pytorch_model.safetensors", halves);
  LoadOptions options;
  options.share_file = options.pack = options.only_packed = true;
  const at::Tensor sample = at::randn({2, 4, 5, 6});
  const UNetConditions conditions = AllConditions(2);
  const at::Tensor timestep = at::tensor({30});
  EXPECT_LE(
      Difference(
          UNet2DConditionModel::Load(folder.path(), options).Forward(sample, timestep, conditions),
          UNet2DConditionModel::Load(folder.path()).Forward(sample, timestep, conditions)),
      1e-5);
}

TEST(UNetTest, WithoutAttentionNoTextIsNeeded) {
  const at::NoGradGuard no_grad;
  const UNet2DConditionModel model = Model(R"({"block_out_channels":[8],"norm_num_groups":4,
      "down_block_types":["DownBlock2D"],"up_block_types":["UpBlock2D"],"num_class_embeds":3,
      "mid_block_type":"UNetMidBlock2D","cross_attention_dim":8})");
  const at::Tensor sample = at::randn({2, 4, 3, 3});
  UNetConditions classes;
  classes.class_labels = at::tensor({1.0, 1.0});
  UNetConditions one;
  one.class_labels = at::tensor(1, at::kInt);
  const at::Tensor output = model.Forward(sample, at::tensor({3}), classes);
  EXPECT_EQ(output.sizes(), sample.sizes());
  EXPECT_LE(Difference(model.Forward(sample, at::tensor({3}), one), output), 1e-5);
  EXPECT_LE(Difference(model.Forward(sample, 3, model.PrepareConditions(one)), output), 1e-5);
  for (const at::Tensor& labels :
       {at::tensor({0, 3}), at::tensor({-1, 0}), at::tensor({0.5, 1.0})}) {
    classes.class_labels = labels;
    EXPECT_THAT(MessageOf([&] { model.Forward(sample, at::tensor({3}), classes); }),
                HasSubstr("class_labels must be whole numbers from 0 to 2"));
  }
}

TEST(UNetTest, BadConditionsAreNamed) {
  const UNet2DConditionModel model = Model(kConditioned);
  const at::Tensor sample = at::zeros({2, 4, 4, 4}), timestep = at::tensor({1});
  const auto message = [&](auto change) {
    UNetConditions conditions = AllConditions(2);
    change(conditions);
    return MessageOf([&] { model.Forward(sample, timestep, conditions); });
  };
  EXPECT_EQ(message([](UNetConditions&) {}), "");
  EXPECT_THAT(message([](UNetConditions& c) {
                c.encoder_hidden_states = at::zeros({2, 3, 8});
              }),
              HasSubstr("encoder_hidden_states is [2, 3, 8], not [B, L, 5]"));
  EXPECT_THAT(message([](UNetConditions& c) { c.text_embeds = at::Tensor(); }),
              HasSubstr("needs text_embeds and time_ids"));
  EXPECT_THAT(message([](UNetConditions& c) { c.time_ids = at::Tensor(); }),
              HasSubstr("needs text_embeds and time_ids"));
  EXPECT_THAT(message([](UNetConditions& c) {
                c.time_ids = at::zeros({2, 3});
              }),
              AllOf(HasSubstr("time_ids [2, 3]"), HasSubstr("of 15")));
  EXPECT_THAT(message([](UNetConditions& c) { c.class_labels = at::Tensor(); }),
              HasSubstr("needs class_labels"));
  EXPECT_THAT(message([](UNetConditions& c) { c.class_labels = at::zeros({2}); }),
              HasSubstr("class_labels is [2], not [B, 15]"));
  EXPECT_THAT(message([](UNetConditions& c) {
                c.class_labels = at::zeros({3, 15});
              }),
              HasSubstr("class_labels has 3 rows, must have 1 or 2"));
  EXPECT_THAT(message([](UNetConditions& c) {
                c.timestep_cond = at::zeros({2, 4});
              }),
              HasSubstr("timestep_cond is [2, 4], not [B, 3]"));
  EXPECT_EQ(message([](UNetConditions& c) { c.timestep_cond = at::Tensor(); }), "");

  const UNet2DConditionModel plain = Model(kTiny);
  UNetConditions conditions{at::zeros({2, 3, 8})};
  conditions.timestep_cond = at::zeros({2, 3});
  EXPECT_THAT(MessageOf([&] { plain.Forward(sample, timestep, conditions); }),
              HasSubstr("no time_cond_proj_dim"));
  EXPECT_THAT(
      MessageOf([&] { plain.Forward(sample, 1, model.PrepareConditions(AllConditions(2))); }),
      HasSubstr("not made by this network"));
  EXPECT_THAT(MessageOf([&] {
                plain.Forward(sample, 1, plain.PrepareConditions({at::zeros({3, 3, 8})}));
              }),
              HasSubstr("conditions of 3 rows for a batch of 2"));
  const UNet2DConditionModel unpadded = Model(R"({"block_out_channels":[8,8],"norm_num_groups":4,
    "down_block_types":["DownBlock2D","DownBlock2D"],"downsample_padding":0,
    "up_block_types":["UpBlock2D","UpBlock2D"],"mid_block_type":null})");
  EXPECT_THAT(MessageOf([&] {
                unpadded.Forward(at::zeros({1, 4, 1, 2}), timestep, UNetConditions{});
              }),
              HasSubstr("must be at least 2 high and wide"));
}

// What training does: a gradient, and the gradient of its squared norm.
TEST(UNetTest, AllConditionsAreDifferentiableTwice) {
  const UNet2DConditionModel model = Model(kConditioned, at::kDouble);
  const UNetConditions conditions = AllConditions(2, at::kDouble);
  at::Tensor sample = at::randn({1, 4, 4, 4}, at::kDouble).requires_grad_(true);
  for (const char* name : {"add_embedding.linear_1.weight", "class_embedding.linear_2.weight",
                           "time_embedding.cond_proj.weight", "encoder_hid_proj.weight",
                           "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_k.weight"}) {
    SCOPED_TRACE(name);
    const at::Tensor weight = model.parameters().at(name);
    weight.requires_grad_(true);
    const auto squared_gradient = [&] {
      const at::Tensor loss =
          model.Forward(sample.repeat({2, 1, 1, 1}), at::tensor({300}), conditions).square().sum();
      return torch::autograd::grad({loss}, {sample}, {}, true, true)[0].square().sum();
    };
    const at::Tensor second = torch::autograd::grad({squared_gradient()}, {weight})[0];
    const at::Tensor direction = at::randn_like(weight);
    const double step = 1e-5;
    const auto moved = [&](double by) {
      {
        const at::NoGradGuard no_grad;
        weight.add_(direction, by);
      }
      return squared_gradient().item<double>();
    };
    const double up = moved(step), down = moved(-2 * step);
    moved(step);
    EXPECT_NEAR((second * direction).sum().item<double>() / ((up - down) / (2 * step)), 1, 1e-4);
    weight.requires_grad_(false);
  }
}

}  // namespace
}  // namespace d2g::model

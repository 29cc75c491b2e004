// What is refused at load, and how.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/worker/model/temp_folder.h"
#include "worker/model/autoencoder_kl.h"
#include "worker/model/ddim_scheduler.h"
#include "worker/model/random_weights.h"
#include "worker/model/text_to_image.h"
#include "worker/model/unet_2d_condition.h"

namespace d2g::model {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr const char* kTiny = R"({"block_out_channels":[8,8],"norm_num_groups":4,
    "down_block_types":["DownBlock2D","CrossAttnDownBlock2D"],
    "up_block_types":["CrossAttnUpBlock2D","UpBlock2D"],"layers_per_block":1,
    "cross_attention_dim":8,"attention_head_dim":2})";

TEST(UNetConfigTest, UnsupportedOptionsAreNamed) {
  const struct {
    const char* json;
    const char* key;
  } kCases[] = {
      {R"({"addition_embed_type":"text_time"})", "addition_embed_type"},
      {R"({"class_embed_type":"timestep"})", "class_embed_type"},
      {R"({"num_attention_heads":8})", "num_attention_heads"},
      {R"({"only_cross_attention":true})", "only_cross_attention"},
      {R"({"time_cond_proj_dim":256})", "time_cond_proj_dim"},
      {R"({"encoder_hid_dim_type":"text_proj"})", "encoder_hid_dim_type"},
      {R"({"dual_cross_attention":true})", "dual_cross_attention"},
      {R"({"mid_block_type":"UNetMidBlock2D"})", "mid_block_type"},
      {R"({"down_block_types":["DownBlock2D","DownBlock2D","AttnDownBlock2D","DownBlock2D"]})",
       "AttnDownBlock2D"},
      {R"({"down_block_types":["DownBlock2D"]})", "down_block_types"},
      {R"({"resnet_time_scale_shift":"ada_group"})", "resnet_time_scale_shift"},
      {R"({"act_fn":"tanh"})", "tanh"},
      {R"({"norm_num_groups":null})", "norm_num_groups"},
      {R"({"attention_head_dim":[8,8]})", "attention_head_dim"},
      {R"({"transformer_layers_per_block":[1,[1,1],1,1]})", "transformer_layers_per_block"},
      {R"({"block_out_channels":[]})", "block_out_channels"},
      {R"({"layers_per_block":0})", "layers_per_block"},
      {R"({"in_channels":"four"})", "in_channels"},
      {R"({"_class_name":"SD3Transformer2DModel"})", "SD3Transformer2DModel"},
      {R"({"conv_in_kernel":2})", "conv_in_kernel"},
      {R"([])", "not a JSON object"},
      {R"({)", "not valid JSON"},
  };
  for (const auto& item : kCases) {
    EXPECT_THAT(MessageOf([&] { UNetConfig::FromJson(item.json, "unet/config.json"); }),
                AllOf(HasSubstr("unet/config.json"), HasSubstr(item.key)))
        << item.json;
  }
}

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
            HasSubstr("time_embedding.linear_1.bias is Long"),
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
              HasSubstr("1 encoder_hidden_states for a batch of 2"));
  EXPECT_THAT(MessageOf([&] { model.Forward(sample, at::arange(3), hidden); }),
              HasSubstr("3 timesteps for a batch of 2"));
}

TEST(DdimConfigTest, BadOptionsAreNamed) {
  const struct {
    const char* json;
    const char* message;
  } kCases[] = {
      {R"({"num_train_timesteps":0})", "num_train_timesteps"},
      {R"({"beta_schedule":"sigmoid"})", "beta_schedule"},
      {R"({"prediction_type":"flow"})", "prediction_type"},
      {R"({"timestep_spacing":"random"})", "timestep_spacing"},
      {R"({"thresholding":true})", "thresholding"},
      {R"({"trained_betas":[0.1],"num_train_timesteps":2})", "trained_betas"},
      {R"({"trained_betas":[2],"num_train_timesteps":1})", "trained_betas"},
      {R"({"beta_end":1.5})", "beta_end"},
      {R"({"clip_sample":"yes"})", "clip_sample"},
  };
  for (const auto& item : kCases) {
    EXPECT_THAT(MessageOf([&] { DdimConfig::FromJson(item.json, "scheduler_config.json"); }),
                AllOf(HasSubstr("scheduler_config.json"), HasSubstr(item.message)));
  }
}

TEST(DdimSchedulerTest, StepsOutsideTheScheduleAreRefused) {
  DdimConfig config;
  const DdimScheduler scheduler(config);
  EXPECT_THAT(MessageOf([&] { scheduler.Timesteps(0); }), HasSubstr("steps is 0"));
  EXPECT_THAT(MessageOf([&] { scheduler.Timesteps(1001); }), HasSubstr("1000"));
  EXPECT_THAT(MessageOf([&] { scheduler.Step(at::ones({1}), 1000, at::ones({1}), 10); }),
              HasSubstr("1000"));
  config.steps_offset = 1;
  EXPECT_THAT(MessageOf([&] { DdimScheduler(config).Timesteps(1000); }),
              HasSubstr("timestep 1000"));
}

TEST(DdimSchedulerTest, PredictX0InvertsNoising) {
  const DdimScheduler scheduler(DdimConfig{});
  const at::Tensor x = at::randn({2, 4}), noise = at::randn({2, 4});
  const float bar = scheduler.alphas_cumprod()[500];
  const at::Tensor z = std::sqrt(bar) * x + std::sqrt(1 - bar) * noise;
  const at::Tensor v = std::sqrt(bar) * noise - std::sqrt(1 - bar) * x;
  EXPECT_TRUE(
      at::allclose(scheduler.PredictX0(z, noise, 500, Parametrization::kEpsilon), x, 1e-4, 1e-4));
  EXPECT_TRUE(
      at::allclose(scheduler.PredictX0(z, v, 500, Parametrization::kVPrediction), x, 1e-4, 1e-4));
  EXPECT_TRUE(at::equal(scheduler.PredictX0(z, x, 500, Parametrization::kSample), x));
  EXPECT_EQ(scheduler.PredictX0(z.to(at::kHalf), x.to(at::kHalf), 500).scalar_type(), at::kFloat);
}

TEST(TextToImageModelTest, MissingPartsAreNamed) {
  const TempFolder folder;
  auto load = [&] { return MessageOf([&] { TextToImageModel::Load(folder.path()); }); };
  EXPECT_THAT(load(), HasSubstr("model_index.json: cannot be opened"));
  folder.Write("model_index.json", R"({"unet":["diffusers","UNet2DConditionModel"]})");
  EXPECT_THAT(load(), HasSubstr("text_encoder"));
  folder.Write("model_index.json", R"({"unet":["diffusers","SD3Transformer2DModel"]})");
  EXPECT_THAT(load(), HasSubstr("only UNet2DConditionModel"));
  folder.Write("model_index.json",
               R"({"unet":["diffusers","UNet2DConditionModel"],
                   "text_encoder":["transformers","CLIPTextModel"],
                   "tokenizer":["transformers","CLIPTokenizer"],
                   "vae":["diffusers","AutoencoderKL"]})");
  EXPECT_THAT(load(), HasSubstr("scheduler_config.json: cannot be opened"));
}

}  // namespace
}  // namespace d2g::model

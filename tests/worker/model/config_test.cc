// What is refused at load, and how.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/worker/model/temp_folder.h"
#include "worker/model/autoencoder_kl.h"
#include "worker/model/clip_text_model.h"
#include "worker/model/clip_tokenizer.h"
#include "worker/model/ddim_scheduler.h"
#include "worker/model/text_to_image.h"

namespace d2g::model {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(DdimConfigTest, BadOptionsAreNamed) {
  const struct {
    const char* json;
    const char* message;
  } kCases[] = {
      {R"({"num_train_timesteps":0})", "num_train_timesteps"},
      {R"({"beta_schedule":"sigmoid"})", "beta_schedule"},
      {R"({"prediction_type":"flow"})", "prediction_type"},
      {R"({"timestep_spacing":"random"})", "timestep_spacing"},
      {R"({"thresholding":true,"dynamic_thresholding_ratio":1.5})", "dynamic_thresholding_ratio"},
      {R"({"thresholding":true,"sample_max_value":0})", "sample_max_value"},
      {R"({"trained_betas":[0.1],"num_train_timesteps":2})", "trained_betas"},
      {R"({"trained_betas":[2],"num_train_timesteps":1})", "trained_betas"},
      {R"({"beta_end":1.5})", "beta_end"},
      {R"({"clip_sample":"yes"})", "clip_sample"},
  };
  for (const auto& item : kCases) {
    EXPECT_THAT(MessageOf([&] { SchedulerConfig::FromJson(item.json, "scheduler_config.json"); }),
                AllOf(HasSubstr("scheduler_config.json"), HasSubstr(item.message)));
  }
}

TEST(DdimSchedulerTest, StepsOutsideTheScheduleAreRefused) {
  SchedulerConfig config;
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
  const DdimScheduler scheduler(SchedulerConfig{});
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

TEST(ClipTextModelTest, BadIdsAreNamed) {
  ClipTextConfig config;
  config.vocab_size = 10;
  config.hidden_size = 8;
  config.intermediate_size = 8;
  config.num_hidden_layers = 0;
  config.num_attention_heads = 2;
  config.max_position_embeddings = 4;
  const ClipTextModel model(config, {{"embeddings.token_embedding.weight", at::randn({10, 8})},
                                     {"embeddings.position_embedding.weight", at::randn({4, 8})},
                                     {"final_layer_norm.weight", at::ones({8})},
                                     {"final_layer_norm.bias", at::zeros({8})}});
  EXPECT_EQ(model.Forward(at::zeros({1, 4}, at::kLong)).sizes(), at::IntArrayRef({1, 4, 8}));
  EXPECT_THAT(MessageOf([&] {
                model.Forward(at::full({1, 2}, 10, at::kLong));
              }),
              HasSubstr("token id 10 is not below vocab_size = 10"));
  EXPECT_THAT(MessageOf([&] {
                model.Forward(at::full({1, 2}, -1, at::kLong));
              }),
              HasSubstr("token id -1"));
  EXPECT_THAT(MessageOf([&] {
                model.Forward(at::zeros({1, 5}, at::kLong));
              }),
              HasSubstr("max_position_embeddings = 4"));
}

TEST(ClipTokenizerTest, BadFilesAreNamed) {
  const TempFolder folder;
  auto load = [&] { return MessageOf([&] { ClipTokenizer::Load(folder.path()); }); };
  EXPECT_THAT(load(), HasSubstr("vocab.json: cannot be opened"));
  folder.Write("vocab.json", R"({"a":0,"a</w>":1})");
  EXPECT_THAT(load(), HasSubstr("merges.txt: cannot be opened"));
  folder.Write("merges.txt", "#version: 0.2\na a</w>\nonly\n");
  EXPECT_THAT(load(), HasSubstr("line 3 is \"only\""));
  folder.Write("merges.txt", "#version: 0.2\n");
  EXPECT_THAT(load(), HasSubstr("bos_token \"<|startoftext|>\" has no id"));
  folder.Write("vocab.json", R"({"a":0,"a</w>":1,"<|startoftext|>":2,"<|endoftext|>":3})");
  EXPECT_EQ(load(), "");
  const ClipTokenizer tokenizer = ClipTokenizer::Load(folder.path());
  EXPECT_THAT(tokenizer.Tokenize("aa A"), ::testing::ElementsAre(0, 1, 1));
  EXPECT_THAT(MessageOf([&] { tokenizer.Encode("ok \xff"); }), HasSubstr("byte 3"));
  EXPECT_THAT(MessageOf([&] { tokenizer.Encode("\xc0\xaf"); }), HasSubstr("byte 0"));
  EXPECT_THAT(MessageOf([&] { tokenizer.Encode("\xed\xa0\x80"); }), HasSubstr("byte 0"));
  folder.Write("tokenizer_config.json", R"({"padding_side":"left"})");
  EXPECT_THAT(load(), HasSubstr("padding_side"));
  folder.Write("vocab.json", R"({"a":-1})");
  EXPECT_THAT(load(), HasSubstr("id of \"a\" is -1"));
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

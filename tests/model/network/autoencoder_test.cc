// What autoencoders refuse, by name, and what tiles and parts of a batch must not change.
#include <ATen/core/grad_mode.h>

#include "model/network/autoencoder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/files/json_config.h"
#include "model/network/autoencoder_kl.h"
#include "model/network/autoencoder_tiny.h"
#include "model/network/vae_tiling.h"
#include "model/weights/random_weights.h"
#include "tests/model/temp_folder.h"

namespace d2g::model {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

const json kKl = {{"_class_name", "AutoencoderKL"},
                  {"down_block_types", {"DownEncoderBlock2D", "DownEncoderBlock2D"}},
                  {"up_block_types", {"UpDecoderBlock2D", "UpDecoderBlock2D"}},
                  {"block_out_channels", {4, 8}},
                  {"norm_num_groups", 2}};
const json kTiny = {{"_class_name", "AutoencoderTiny"},
                    {"encoder_block_out_channels", {4, 4}},
                    {"decoder_block_out_channels", {4, 4}},
                    {"num_encoder_blocks", {1, 1}},
                    {"num_decoder_blocks", {1, 1}}};

json With(json config, const char* key, const json& value) {
  config[key] = value;
  return config;
}

// Writes the config alone: what is refused must be refused before weights are looked for.
std::string LoadMessage(const json& config) {
  const TempFolder folder;
  folder.Write("config.json", config.dump());
  return MessageOf([&] { LoadAutoencoder(folder.path()); });
}

std::unique_ptr<Autoencoder> Loaded(const json& config, const TempFolder& folder) {
  const std::string path = folder.Write("config.json", config.dump());
  const bool tiny = config["_class_name"] == "AutoencoderTiny";
  const ShapeMap shapes =
      tiny ? AutoencoderTiny::ParameterShapes(AutoencoderTinyConfig::FromFile(path))
           : AutoencoderKL::ParameterShapes(AutoencoderConfig::FromFile(path));
  WriteSafetensors(folder / "diffusion_pytorch_model.safetensors", RandomParameters(3, shapes));
  return LoadAutoencoder(folder.path());
}

TEST(AutoencoderTest, OptionsAreRefusedByName) {
  const struct {
    json config;
    const char* option;
    const char* message;
  } kCases[] = {
      {With(kKl, "_class_name", "VQModel"), "_class_name", "only AutoencoderKL and"},
      {With(kKl, "_class_name", "AsymmetricAutoencoderKL"), "_class_name",
       "only AutoencoderKL and"},
      {With(kKl, "_class_name", "AutoencoderDC"), "_class_name", "only AutoencoderKL and"},
      {With(kKl, "_class_name", 7), "_class_name", "must be a string"},
      {With(kKl, "down_block_types", {"DownEncoderBlock2D", "DownBlock2D"}), "down_block_types",
       "block type \"DownBlock2D\" is not supported"},
      {With(kKl, "up_block_types", {"UpDecoderBlock2D"}), "up_block_types", "has 1 entries"},
      {With(kKl, "block_out_channels", json::array()), "block_out_channels", "1 to 16 entries"},
      {With(kKl, "block_out_channels", {4, 0}), "block_out_channels", "must be in [1, 1048576]"},
      {With(kKl, "norm_num_groups", 3), "norm_num_groups", "does not divide 4"},
      {With(kKl, "layers_per_block", 1'000'000'000), "layers_per_block", "must be in [1, 1000]"},
      {With(kKl, "latent_channels", -4), "latent_channels", "must be in"},
      {With(kKl, "act_fn", "quick_gelu"), "act_fn", "not supported"},
      {With(kKl, "scaling_factor", 0), "scaling_factor", "must not be 0"},
      {With(kKl, "latents_mean", {1, 2}), "latents_mean", "has 2 entries"},
      {With(kKl, "latents_std", "x"), "latents_std", "list of numbers"},
      {With(kKl, "sample_size", json::array()), "sample_size", "must hold sides"},
      {With(kTiny, "encoder_block_out_channels", {4, 8}), "encoder_block_out_channels",
       "must be equal"},
      {With(kTiny, "num_encoder_blocks", {1}), "num_encoder_blocks", "has 1 entries"},
      {With(kTiny, "num_decoder_blocks", 3), "num_decoder_blocks", "list of integers"},
      {With(kTiny, "num_decoder_blocks", {1, -1}), "num_decoder_blocks", "must be in [0, 1000]"},
      {With(kTiny, "act_fn", "tanh"), "act_fn", "not supported"},
      {With(kTiny, "upsample_fn", "linear"), "upsample_fn", "not supported"},
      {With(kTiny, "upsampling_scaling_factor", 0), "upsampling_scaling_factor",
       "must be in [1, 64]"},
  };
  for (const auto& item : kCases) {
    EXPECT_THAT(LoadMessage(item.config),
                AllOf(HasSubstr("/config.json"), HasSubstr(item.option), HasSubstr(item.message)));
  }
}

TEST(AutoencoderTest, TheClassMayBeLeftOut) {
  for (const json& config : {kKl, kTiny}) {
    const TempFolder folder;
    Loaded(config, folder);
    json unnamed = config;
    unnamed.erase("_class_name");
    folder.Write("config.json", unnamed.dump());
    const at::NoGradGuard no_grad;
    const LatentDistribution latents =
        LoadAutoencoder(folder.path())->Encode(at::zeros({1, 3, 4, 4}));
    EXPECT_EQ(latents.mean.sizes(), at::IntArrayRef({1, 4, 2, 2}));
    EXPECT_EQ(latents.logvar.defined(), config == kKl);
  }
}

TEST(AutoencoderTest, FactorsComeFromTheFile) {
  const TempFolder folder;
  const json config = With(With(With(kKl, "shift_factor", 0.25), "latents_mean", {1, 2, 3, 4}),
                           "force_upcast", false);
  const std::unique_ptr<Autoencoder> vae = Loaded(config, folder);
  EXPECT_EQ(vae->scaling_factor(), 0.18215);
  EXPECT_EQ(vae->shift_factor(), 0.25);
  EXPECT_EQ(vae->latents_mean(), std::vector<double>({1, 2, 3, 4}));
  EXPECT_TRUE(vae->latents_std().empty());
  EXPECT_FALSE(vae->force_upcast());
  EXPECT_EQ(vae->scale(), 2);
}

TEST(AutoencoderTest, ShapesAreChecked) {
  const at::NoGradGuard no_grad;
  for (const json& config : {kKl, kTiny}) {
    const TempFolder folder;
    const std::unique_ptr<Autoencoder> vae = Loaded(config, folder);
    EXPECT_THAT(MessageOf([&] {
                  vae->Encode(at::zeros({1, 4, 8, 8}));
                }),
                HasSubstr("pictures are [1, 4, 8, 8], not [B, 3, H, W]"));
    EXPECT_THAT(MessageOf([&] { vae->Encode(at::zeros({3, 8, 8})); }), HasSubstr("[3, 8, 8]"));
    EXPECT_THAT(MessageOf([&] { vae->Encode(at::zeros({0, 3, 8, 8})); }), HasSubstr("not [B, 3"));
    EXPECT_THAT(MessageOf([&] {
                  vae->Decode(at::zeros({1, 3, 8, 8}));
                }),
                HasSubstr("latents are [1, 3, 8, 8], not [B, 4, h, w]"));
  }
  const TempFolder folder;
  EXPECT_THAT(MessageOf([&] {
                Loaded(kKl, folder)->Encode(at::zeros({1, 3, 1, 8}));
              }),
              HasSubstr("are 8x1, the network needs at least 2x2"));
}

TEST(AutoencoderTest, TilesNeedRoom) {
  const TempFolder folder;
  EXPECT_THAT(MessageOf([&] { Loaded(With(kKl, "sample_size", 3), folder)->SetTiling(true); }),
              HasSubstr("\"sample_size\" is 3: tiling needs at least 4"));
  const std::unique_ptr<Autoencoder> tiny =
      Loaded(With(kTiny, "upsampling_scaling_factor", 1.5), folder);
  EXPECT_THAT(MessageOf([&] { tiny->SetTiling(true); }),
              HasSubstr("give a scale of 1.5: tiling needs a whole number"));
  tiny->SetTiling(false);
  const at::NoGradGuard no_grad;
  EXPECT_EQ(tiny->Decode(at::zeros({1, 4, 5, 4})).sizes(), at::IntArrayRef({1, 3, 7, 6}));
}

// A network without reach beyond its point is the same with tiles and without.
TEST(VaeTilingTest, TilesOfAPointwiseFunctionFitTogether) {
  const at::Tensor x = at::rand({2, 3, 41, 29});
  const auto run = [](const at::Tensor& tile) { return tile * 2; };
  const at::Tensor blended =
      RunBlendedTiles(x, {.size = 16, .stride = 12, .blend = 4, .keep = 12}, run);
  EXPECT_TRUE(at::allclose(blended, x * 2, 1e-6, 1e-6));
  const at::Tensor overlaid = RunOverlaidTiles(
      x, {.size = 16, .stride = 12, .out_size = 16, .out_stride = 12, .blend = 4}, 3, 41, 29, run);
  EXPECT_TRUE(at::allclose(overlaid, x * 2, 1e-6, 1e-6));
}

TEST(AutoencoderTest, PartsOfALargeBatchAreTheWhole) {
  const TempFolder folder;
  const std::unique_ptr<Autoencoder> vae = Loaded(kTiny, folder);
  const at::Tensor pictures = at::rand({5, 3, 512, 520}) * 2 - 1;
  const at::NoGradGuard no_grad;
  const at::Tensor together = vae->Encode(pictures).mean;
  for (int64_t i = 0; i < 5; ++i) {
    EXPECT_TRUE(
        at::allclose(together[i], vae->Encode(pictures.narrow(0, i, 1)).mean[0], 1e-5, 1e-5));
  }
}

}  // namespace
}  // namespace d2g::model

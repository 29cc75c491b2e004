// The real d2g-model program on folders as users have them, whole and broken: a message that names
// the thing and exit code 3, never a crash.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/files/json_config.h"
#include "model/network/autoencoder_kl.h"
#include "model/weights/random_weights.h"
#include "tests/model/run_tool.h"
#include "tests/model/temp_folder.h"

namespace d2g::model {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr const char* kWeights = "vae/diffusion_pytorch_model.safetensors";

class ComponentFolderTest : public ::testing::Test {
 protected:
  ComponentFolderTest() {
    const std::string path = folder_.Write("vae/config.json", config_.dump());
    tensors_ =
        RandomParameters(3, AutoencoderKL::ParameterShapes(AutoencoderConfig::FromFile(path)));
    WriteSafetensors(folder_ / "in", {{"image", at::zeros({1, 3, 8, 8})},
                                      {"latent", at::zeros({1, 4, 4, 4}, at::kHalf)}});
  }

  Ended Run(const std::string& component, const std::vector<std::string>& more = {}) {
    std::vector<std::string> arguments = {"component", "--model",   folder_.path(), "--component",
                                          component,   "--inputs",  folder_ / "in", "--threads",
                                          "1",         "--outputs", folder_ / "out"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return RunTool(arguments);
  }

  void ExpectRefused(const std::string& message, const std::vector<std::string>& more = {}) {
    const Ended ended = Run("vae_decoder", more);
    EXPECT_EQ(ended.code, 3) << ended.output;
    EXPECT_THAT(ended.output, HasSubstr(message));
    EXPECT_FALSE(std::filesystem::exists(folder_ / "out"));
  }

  const TempFolder folder_;
  const json config_ = {{"down_block_types", {"DownEncoderBlock2D", "DownEncoderBlock2D"}},
                        {"up_block_types", {"UpDecoderBlock2D", "UpDecoderBlock2D"}},
                        {"block_out_channels", {4, 8}},
                        {"norm_num_groups", 2},
                        {"sample_size", 8}};
  TensorMap tensors_;
};

TEST_F(ComponentFolderTest, RunsAFolderWithNothingElse) {
  WriteSafetensors(folder_ / kWeights, tensors_);
  EXPECT_THAT(Run("vae_decoder").output, HasSubstr("image [1, 3, 8, 8]"));
  EXPECT_THAT(Run("vae_encoder", {"--tile"}).output,
              AllOf(HasSubstr("logvar [1, 4, 4, 4]"), HasSubstr("mean [1, 4, 4, 4]"),
                    HasSubstr("peak memory")));
  EXPECT_EQ(ReadSafetensors(folder_ / "out").size(), 2u);
}

TEST_F(ComponentFolderTest, TilesAreForTheAutoencoder) {
  const Ended ended = Run("unet", {"--tile"});
  EXPECT_EQ(ended.code, 2);
  EXPECT_THAT(ended.output, HasSubstr("--tile: is for vae_encoder and vae_decoder, not for unet"));
}

TEST_F(ComponentFolderTest, WhatAComponentIsNotGivenIsAskedFor) {
  const auto run = [&](const char* component) {
    return RunTool({"component", "--model", folder_.path(), "--component", component, "--outputs",
                    folder_ / "out"});
  };
  const Ended tokenizer = run("tokenizer"), vae = run("vae_encoder");
  EXPECT_EQ(tokenizer.code, 2);
  EXPECT_THAT(tokenizer.output, HasSubstr("--component tokenizer: --text is required"));
  EXPECT_EQ(vae.code, 2);
  EXPECT_THAT(vae.output, HasSubstr("--component vae_encoder: --inputs is required"));
}

TEST_F(ComponentFolderTest, InputsThatNothingTakesAreNamed) {
  WriteSafetensors(folder_ / kWeights, tensors_);
  const Ended ended = Run("vae_decoder");
  EXPECT_EQ(ended.code, 0);
  EXPECT_THAT(ended.output,
              HasSubstr("tensor \"image\" is not used: vae_decoder takes no such input"));
}

TEST_F(ComponentFolderTest, VariantsAreChosen) {
  ExpectRefused("vae/diffusion_pytorch_model.safetensors: no such file");
  folder_.Write("vae/diffusion_pytorch_model.bin", "x");
  ExpectRefused("diffusion_pytorch_model.bin is not read: convert it to safetensors");
  WriteSafetensors(folder_ / "vae/diffusion_pytorch_model.fp16.safetensors", tensors_);
  WriteSafetensors(folder_ / "vae/diffusion_pytorch_model.non_ema.safetensors", tensors_);
  ExpectRefused("(fp16, non_ema) and no plain one: --variant chooses");
  ExpectRefused("has no variant \"bf16\"", {"--variant", "bf16"});
  EXPECT_EQ(Run("vae_decoder", {"--variant", "fp16"}).code, 0);
}

TEST_F(ComponentFolderTest, TensorsThatDoNotFitAreNamed) {
  TensorMap tensors = tensors_;
  tensors.erase("decoder.conv_in.bias");
  tensors["decoder.conv_in.weight"] = at::ones({8, 4, 1, 1});
  tensors["encoder.surplus"] = at::ones({1});
  WriteSafetensors(folder_ / kWeights, tensors);
  ExpectRefused(
      "/vae: parameters do not fit the config: 1 missing (decoder.conv_in.bias); 1 wrong "
      "(decoder.conv_in.weight is [8, 4, 1, 1], not [8, 4, 3, 3]); 1 unexpected "
      "(encoder.surplus)");
}

TEST_F(ComponentFolderTest, BrokenFilesAreNamed) {
  WriteSafetensors(folder_ / kWeights, tensors_);
  const std::string bytes = ReadFileToString(folder_ / kWeights);
  folder_.Write(kWeights, bytes.substr(0, bytes.size() / 2));
  ExpectRefused("diffusion_pytorch_model.safetensors: truncated: expected");
  folder_.Write(kWeights, std::string(64, '\xff'));
  ExpectRefused("header length 18446744073709551615 is over the limit");
  folder_.Write(kWeights, "version https://git-lfs.github.com/spec/v1\n");
  ExpectRefused("is a Git LFS pointer");
  folder_.Write("vae/diffusion_pytorch_model.safetensors.index.json",
                R"({"weight_map":{"a":"../../etc/passwd"}})");
  ExpectRefused("shard \"../../etc/passwd\" is not a plain file name");
  folder_.Write("vae/config.json", std::string(100'000, '['));
  ExpectRefused("vae/config.json: JSON is nested deeper than the limit of 64");
  folder_.Write("vae/config.json", R"({"_class_name":"ConsistencyDecoderVAE"})");
  ExpectRefused("option \"_class_name\" is \"ConsistencyDecoderVAE\": not supported");
  std::filesystem::remove(folder_ / "vae/config.json");
  ExpectRefused("vae/config.json: cannot be opened: No such file or directory");
}

TEST_F(ComponentFolderTest, InputsAreChecked) {
  WriteSafetensors(folder_ / kWeights, tensors_);
  WriteSafetensors(folder_ / "in", {{"latent", at::zeros({1, 5, 4, 4})}});
  ExpectRefused("latents are [1, 5, 4, 4], not [B, 4, h, w]");
  WriteSafetensors(folder_ / "in", {{"z", at::zeros({1})}});
  ExpectRefused("has no tensor \"latent\"");
  folder_.Write("in", "");
  ExpectRefused("/in: too short for a safetensors file: 0 bytes");
}

}  // namespace
}  // namespace d2g::model

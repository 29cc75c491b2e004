// What d2g model inspect says of folders, good and bad.
#include "model/check/model_summary.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <filesystem>

#include "model/files/json_config.h"
#include "tests/model/golden.h"
#include "tests/model/temp_folder.h"

namespace d2g::model {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ModelSummaryTest : public ::testing::Test {
 protected:
  ModelSummaryTest() {
    std::filesystem::copy(GoldenFolder("pipeline/teacher"), model(),
                          std::filesystem::copy_options::recursive);
  }

  std::string model() const { return folder_ / "model"; }

  // Replaces a key of a JSON file of the model; null removes it.
  void Set(const std::string& file, const std::string& key, const nlohmann::json& value) {
    nlohmann::json json = ReadJsonFile(model() + "/" + file);
    if (value.is_null()) {
      json.erase(key);
    } else {
      json[key] = value;
    }
    folder_.Write("model/" + file, json.dump());
  }

  static const ComponentSummary& Component(const ModelSummary& summary, const std::string& name) {
    const auto found = std::find_if(summary.components.begin(), summary.components.end(),
                                    [&](const ComponentSummary& c) { return c.name == name; });
    EXPECT_NE(found, summary.components.end()) << name;
    return *found;
  }

  // The trouble of one component; the others must have none.
  std::string TroubleOf(const std::string& name) {
    const ModelSummary summary = SummariseModel(model());
    EXPECT_FALSE(summary.usable());
    for (const ComponentSummary& component : summary.components) {
      if (component.name == name) continue;
      EXPECT_EQ(component.trouble, "") << component.name;
    }
    return Component(summary, name).trouble;
  }

  TempFolder folder_;
};

TEST_F(ModelSummaryTest, AWholeModel) {
  const ModelSummary summary = SummariseModel(model());
  EXPECT_TRUE(summary.usable()) << summary.trouble;
  EXPECT_EQ(summary.class_name, "StableDiffusionPipeline");
  EXPECT_NE(summary.diffusers_version, "");
  EXPECT_THAT(summary.latent_shape, ElementsAre(4, 8, 8));
  EXPECT_THAT(summary.picture_shape, ElementsAre(1, 32, 32));
  const ComponentSummary& unet = Component(summary, "unet");
  int64_t parameters = 0;
  for (const auto& [name, tensor] :
       ReadSafetensorsFolder(model() + "/unet", "diffusion_pytorch_model")) {
    parameters += tensor.numel();
  }
  EXPECT_EQ(unet.parameters, parameters);
  EXPECT_EQ(unet.bytes, 4 * parameters);
  EXPECT_THAT(unet.dtypes, ElementsAre("fp32"));
  EXPECT_GT(summary.parameters(), parameters);
  EXPECT_THAT(Component(summary, "scheduler").options,
              AllOf(HasSubstr("v_prediction"), HasSubstr("trailing")));
}

TEST_F(ModelSummaryTest, AComponentAlone) {
  const ModelSummary unet = SummariseModel(model() + "/unet");
  EXPECT_TRUE(unet.usable());
  EXPECT_EQ(unet.class_name, "UNet2DConditionModel");
  EXPECT_THAT(unet.latent_shape, ElementsAre(4, 8, 8));
  EXPECT_THAT(unet.picture_shape, IsEmpty());
  EXPECT_EQ(SummariseModel(model() + "/text_encoder").class_name, "CLIPTextModel");
}

TEST_F(ModelSummaryTest, WhatKeepsAComponentFromRunningIsNamed) {
  Set("unet/config.json", "dual_cross_attention", true);
  EXPECT_THAT(TroubleOf("unet"), AllOf(HasSubstr("dual_cross_attention"), HasSubstr("true")));
  Set("unet/config.json", "dual_cross_attention", nullptr);
  Set("unet/config.json", "layers_per_block", 3);
  EXPECT_THAT(TroubleOf("unet"),
              AllOf(HasSubstr("missing"), HasSubstr("down_blocks.0.resnets.1.norm1")));
  Set("unet/config.json", "layers_per_block", 1);
  Set("model_index.json", "text_encoder", {"transformers", "T5EncoderModel"});
  EXPECT_THAT(TroubleOf("text_encoder"), HasSubstr("T5EncoderModel is not supported"));
  Set("model_index.json", "text_encoder", {"transformers", "CLIPTextModel"});
  std::filesystem::resize_file(model() + "/vae/diffusion_pytorch_model.safetensors", 5000);
  EXPECT_THAT(TroubleOf("vae"), HasSubstr("truncated"));
  std::filesystem::remove(model() + "/vae/diffusion_pytorch_model.safetensors");
  EXPECT_THAT(TroubleOf("vae"), HasSubstr("no such file"));
}

TEST_F(ModelSummaryTest, AComponentsFolderIsSummarisedByItself) {
  const auto only = [&](const char* component) {
    const ModelSummary summary = SummariseModel(model() + "/" + component);
    EXPECT_TRUE(summary.usable()) << component;
    return summary.components.at(0);
  };
  EXPECT_EQ(only("unet").class_name, "UNet2DConditionModel");
  EXPECT_EQ(only("scheduler").class_name, "DDIMScheduler");
  EXPECT_THAT(only("scheduler").options, HasSubstr("1000 timesteps"));
  EXPECT_EQ(only("tokenizer").class_name, "CLIPTokenizer");
  EXPECT_THAT(only("tokenizer").options, HasSubstr("length 20"));
  std::filesystem::remove(model() + "/tokenizer/tokenizer_config.json");
  EXPECT_THAT(only("tokenizer").options, HasSubstr("tokens"));
}

TEST_F(ModelSummaryTest, OtherComponentsAreListedOnly) {
  Set("model_index.json", "feature_extractor", {"transformers", "CLIPImageProcessor"});
  Set("model_index.json", "image_encoder", {nullptr, nullptr});
  const ModelSummary summary = SummariseModel(model());
  EXPECT_TRUE(summary.usable());
  EXPECT_FALSE(Component(summary, "feature_extractor").used);
}

TEST_F(ModelSummaryTest, AMissingComponentIsNamed) {
  Set("model_index.json", "vae", nullptr);
  // Latents need none.
  EXPECT_TRUE(SummariseModel(model()).usable());
  Set("model_index.json", "unet", nullptr);
  const ModelSummary summary = SummariseModel(model());
  EXPECT_FALSE(summary.usable());
  EXPECT_THAT(summary.trouble, HasSubstr("unet"));
}

TEST_F(ModelSummaryTest, PartsThatDoNotGoTogetherAreNamed) {
  const auto trouble = [&] {
    const ModelSummary summary = SummariseModel(model());
    EXPECT_FALSE(summary.usable());
    for (const ComponentSummary& component : summary.components) {
      EXPECT_EQ(component.trouble, "") << component.name;
    }
    return summary.trouble;
  };
  Set("model_index.json", "_class_name", "StableDiffusionInpaintPipeline");
  EXPECT_THAT(trouble(), HasSubstr("StableDiffusionInpaintPipeline"));
  Set("model_index.json", "_class_name", "StableDiffusionPipeline");
  Set("tokenizer/tokenizer_config.json", "model_max_length", 4000);
  EXPECT_THAT(trouble(), HasSubstr("4000"));
}

TEST_F(ModelSummaryTest, AFolderThatIsNoModelIsRefused) {
  EXPECT_THAT(MessageOf([&] { SummariseModel(folder_ / "none"); }), HasSubstr("not a folder"));
  EXPECT_THAT(MessageOf([&] { SummariseModel(folder_.path()); }), HasSubstr("model_index.json"));
  folder_.Write("model/model_index.json", "[]");
  EXPECT_THAT(MessageOf([&] { SummariseModel(model()); }), HasSubstr("not a JSON object"));
}

}  // namespace
}  // namespace d2g::model

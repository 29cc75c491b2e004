// Which folders are taken for which pipeline, and which are refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/text_to_image.h"
#include "tests/model/temp_folder.h"

namespace d2g::model {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kNetworks[] = R"("unet":["diffusers","UNet2DConditionModel"],
    "vae":["diffusers","AutoencoderKL"],"scheduler":["diffusers","PNDMScheduler"])";
constexpr char kFirst[] = R"("text_encoder":["transformers","CLIPTextModel"],
    "tokenizer":["transformers","CLIPTokenizer"])";
constexpr char kSecond[] = R"("text_encoder_2":["transformers","CLIPTextModelWithProjection"],
    "tokenizer_2":["transformers","CLIPTokenizerFast"])";

std::string Index(const std::vector<std::string>& parts) {
  std::string json = "{";
  for (const std::string& part : parts) json += (json.size() > 1 ? "," : "") + part;
  return json + "}";
}

class PipelineIndexTest : public ::testing::Test {
 protected:
  PipelineIndexTest() { folder_.Write("vae/config.json", R"({"block_out_channels":[8,8,8]})"); }

  PipelineIndex Read(const std::vector<std::string>& parts) {
    folder_.Write("model_index.json", Index(parts));
    return PipelineIndex::FromFolder(folder_.path());
  }

  TempFolder folder_;
};

TEST_F(PipelineIndexTest, KnowsTheThreePipelines) {
  const PipelineIndex sd = Read({R"("_class_name":"StableDiffusionPipeline")", kNetworks, kFirst,
                                 R"("safety_checker":["stable_diffusion","Checker"])",
                                 R"("image_encoder":[null,null])"});
  EXPECT_FALSE(sd.is_xl);
  ASSERT_EQ(sd.texts.size(), 1);
  EXPECT_EQ(sd.texts[0].flavour, TokenizerFlavour::kSlow);
  EXPECT_EQ(sd.vae_scale, 4);

  const PipelineIndex xl =
      Read({R"("_class_name":"StableDiffusionXLPipeline")", kNetworks, kFirst, kSecond});
  EXPECT_TRUE(xl.is_xl && xl.force_zeros_for_empty_prompt && !xl.requires_aesthetics_score);
  ASSERT_EQ(xl.texts.size(), 2);
  EXPECT_EQ(xl.texts[1].encoder, "text_encoder_2");
  EXPECT_EQ(xl.texts[1].flavour, TokenizerFlavour::kFast);
  EXPECT_TRUE(!xl.texts[0].projects && xl.texts[1].projects);

  const PipelineIndex refiner =
      Read({R"("_class_name":"StableDiffusionXLImg2ImgPipeline")", kNetworks, kSecond,
            R"("requires_aesthetics_score":true,"force_zeros_for_empty_prompt":false)",
            R"("text_encoder":[null,null],"tokenizer":[null,null])"});
  EXPECT_TRUE(refiner.is_xl && refiner.requires_aesthetics_score);
  EXPECT_FALSE(refiner.force_zeros_for_empty_prompt);
  EXPECT_EQ(refiner.texts.size(), 1);
}

TEST_F(PipelineIndexTest, WithoutAClassTheComponentsTell) {
  EXPECT_FALSE(Read({kNetworks, kFirst}).is_xl);
  EXPECT_TRUE(Read({kNetworks, kFirst, kSecond}).is_xl);
  const PipelineIndex bare =
      Read({R"("unet":["diffusers","UNet2DConditionModel"],"vae":[null,null])", kFirst});
  EXPECT_FALSE(bare.has_vae);
  EXPECT_EQ(bare.vae_scale, 8);
}

TEST_F(PipelineIndexTest, TinyVaesHaveLevelsOfTheirOwn) {
  folder_.Write("vae/config.json", R"({"_class_name":"AutoencoderTiny"})");
  const char* tiny = R"("unet":["diffusers","UNet2DConditionModel"],
                        "vae":["diffusers","AutoencoderTiny"])";
  EXPECT_EQ(Read({tiny, kFirst}).vae_scale, 8);
  folder_.Write("vae/config.json", R"({"decoder_block_out_channels":[4,4]})");
  EXPECT_EQ(Read({tiny, kFirst}).vae_scale, 2);
}

TEST_F(PipelineIndexTest, OthersAreRefusedByName) {
  const struct {
    std::vector<std::string> parts;
    std::vector<const char*> messages;
  } kCases[] = {
      {{R"("_class_name":"StableDiffusion3Pipeline")", kNetworks, kFirst},
       {"_class_name", "StableDiffusion3Pipeline"}},
      {{R"("_class_name":["pipeline","Mine"])", kNetworks, kFirst}, {"_class_name", "Mine"}},
      {{R"("unet":["diffusers","SD3Transformer2DModel"])"}, {"only UNet2DConditionModel"}},
      {{kFirst}, {"unet", "missing"}},
      {{kNetworks}, {"text_encoder", "missing"}},
      {{kNetworks, R"("text_encoder":["transformers","T5EncoderModel"])"},
       {"text_encoder", "T5EncoderModel"}},
      {{kNetworks, R"("text_encoder":["transformers","CLIPTextModel"])",
        R"("tokenizer":["transformers","T5Tokenizer"])"},
       {"tokenizer", "T5Tokenizer", "CLIPTokenizer and CLIPTokenizerFast"}},
      {{R"("_class_name":"StableDiffusionXLPipeline")", kNetworks, kFirst},
       {"text_encoder_2", "missing"}},
      {{R"("_class_name":"StableDiffusionXLPipeline")", kNetworks, kSecond,
        R"("tokenizer":["transformers","CLIPTokenizer"])"},
       {"text_encoder", "missing"}},
      {{R"("unet":["diffusers","UNet2DConditionModel"],"vae":["diffusers","VQModel"])", kFirst},
       {"vae", "VQModel"}},
  };
  for (const auto& item : kCases) {
    const std::string message = MessageOf([&] { Read(item.parts); });
    EXPECT_THAT(message, HasSubstr("model_index.json")) << Index(item.parts);
    for (const char* part : item.messages) EXPECT_THAT(message, HasSubstr(part));
  }
  folder_.Write("vae/config.json", R"({"block_out_channels":[]})");
  EXPECT_THAT(MessageOf([&] {
                Read({kNetworks, kFirst});
              }),
              AllOf(HasSubstr("vae/config.json"), HasSubstr("block_out_channels")));
}

TEST_F(PipelineIndexTest, MissingFilesAreNamed) {
  const auto load = [&] { return MessageOf([&] { TextToImageModel::Load(folder_.path()); }); };
  EXPECT_THAT(load(), HasSubstr("model_index.json: cannot be opened"));
  Read({kNetworks, kFirst});
  EXPECT_THAT(load(), HasSubstr("scheduler_config.json: cannot be opened"));
}

}  // namespace
}  // namespace d2g::model

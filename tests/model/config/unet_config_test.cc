// Which configs of a U-Net are read, how, and which are refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <numeric>

#include "model/network/unet_2d_condition.h"
#include "tests/model/temp_folder.h"

namespace d2g::model {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A network of two levels; `more` is put behind and wins.
std::string TwoLevels(const std::string& more) {
  return R"({"block_out_channels":[8,16],"norm_num_groups":4,"cross_attention_dim":8,
      "down_block_types":["DownBlock2D","CrossAttnDownBlock2D"],"attention_head_dim":2,
      "up_block_types":["CrossAttnUpBlock2D","UpBlock2D"],"layers_per_block":1)" +
         (more.empty() ? "" : "," + more) + "}";
}

UNetConfig Read(const std::string& more) {
  return UNetConfig::FromJson(TwoLevels(more), "unet/config.json");
}

bool HasParameter(const UNetConfig& config, const std::string& name) {
  return UNet2DConditionModel::ParameterShapes(config).contains(name);
}

TEST(UNetConfigTest, WhatIsNotSupportedIsNamed) {
  const struct {
    const char* more;
    const char* key;
    const char* says;
  } kCases[] = {
      {R"("_class_name":"SD3Transformer2DModel")", "_class_name", "SD3Transformer2DModel"},
      {R"("num_attention_heads":8)", "num_attention_heads", "8"},
      {R"("dual_cross_attention":true)", "dual_cross_attention", "true"},
      {R"("attention_type":"gated")", "attention_type", "gated"},
      {R"("quantization_config":{"quant_method":"gguf"})", "quantization_config", "gguf"},
      {R"("mid_block_type":"UNetMidBlock2DSimpleCrossAttn")", "mid_block_type", "SimpleCrossAttn"},
      {R"("down_block_types":["DownBlock2D","AttnDownBlock2D"])", "down_block_types",
       "\"AttnDownBlock2D\" is not supported"},
      {R"("up_block_types":["KUpBlock2D","UpBlock2D"])", "up_block_types", "\"KUpBlock2D\""},
      {R"("resnet_time_scale_shift":"ada_group")", "resnet_time_scale_shift", "ada_group"},
      {R"("act_fn":"quick_gelu")", "act_fn", "quick_gelu"},
      {R"("time_embedding_act_fn":"tanh")", "time_embedding_act_fn", "tanh"},
      {R"("timestep_post_act":"tanh")", "timestep_post_act", "tanh"},
      {R"("time_embedding_type":"learned")", "time_embedding_type", "learned"},
      {R"("class_embed_type":"words")", "class_embed_type", "words"},
      {R"("addition_embed_type":"image_hint")", "addition_embed_type", "image_hint"},
      {R"("encoder_hid_dim":4,"encoder_hid_dim_type":"image_proj")", "encoder_hid_dim_type",
       "image_proj"},
      {R"("conv_in_kernel":2)", "conv_in_kernel", "odd"},
      {R"("conv_out_kernel":4)", "conv_out_kernel", "odd"},
      {R"("downsample_padding":2)", "downsample_padding", "at most 1"},
  };
  for (const auto& item : kCases) {
    EXPECT_THAT(
        MessageOf([&] { Read(item.more); }),
        AllOf(HasSubstr("unet/config.json: option"), HasSubstr(item.key), HasSubstr(item.says)))
        << item.more;
  }
  EXPECT_THAT(MessageOf([] { UNetConfig::FromJson("[]", "x.json"); }),
              HasSubstr("x.json: not a JSON object"));
  EXPECT_THAT(MessageOf([] { UNetConfig::FromJson("{", "x.json"); }),
              HasSubstr("x.json: not valid JSON"));
}

TEST(UNetConfigTest, ValuesThatMakeNoNetworkAreNamed) {
  const struct {
    const char* more;
    const char* key;
    const char* says;
  } kCases[] = {
      {R"("in_channels":"four")", "in_channels", "must be an integer"},
      {R"("in_channels":0)", "in_channels", "at least 1"},
      {R"("out_channels":-4)", "out_channels", "at least 1"},
      {R"("in_channels":1000000000)", "in_channels", "at most 65536"},
      {R"("block_out_channels":[])", "block_out_channels", "not empty"},
      {R"("block_out_channels":8)", "block_out_channels", "not empty"},
      {R"("block_out_channels":[8,-8])", "block_out_channels", "1 to 65536"},
      {R"("block_out_channels":[8,16,16])", "down_block_types", "as many entries"},
      {R"("up_block_types":["UpBlock2D"])", "up_block_types", "as many entries"},
      {R"("down_block_types":"DownBlock2D")", "down_block_types", "list of strings"},
      {R"("layers_per_block":0)", "layers_per_block", "1 to"},
      {R"("layers_per_block":1000000000)", "layers_per_block", "1 to 10000"},
      {R"("layers_per_block":[1,1,1])", "layers_per_block", "needs 2 entries"},
      {R"("layers_per_block":[9000,9000])", "layers_per_block", "more than 10000 layers"},
      {R"("transformer_layers_per_block":9999)", "transformer_layers_per_block",
       "more than 10000 layers"},
      {R"("transformer_layers_per_block":[1,-1])", "transformer_layers_per_block", "0 to"},
      {R"("transformer_layers_per_block":[1,2,3])", "transformer_layers_per_block",
       "needs 2 entries"},
      {R"("transformer_layers_per_block":[1,"two"])", "transformer_layers_per_block",
       "lists of integers"},
      {R"("transformer_layers_per_block":[1,[2]])", "transformer_layers_per_block",
       "needs reverse_transformer_layers_per_block"},
      {R"("transformer_layers_per_block":[1,[]],"reverse_transformer_layers_per_block":[1,1])",
       "transformer_layers_per_block", "middle block"},
      {R"("transformer_layers_per_block":[1,[2]],"reverse_transformer_layers_per_block":[[1],1])",
       "reverse_transformer_layers_per_block", "each of a block's 2 resnets"},
      {R"("reverse_transformer_layers_per_block":1)", "reverse_transformer_layers_per_block",
       "must be a list"},
      {R"("attention_head_dim":[2])", "attention_head_dim", "needs 2 entries"},
      {R"("attention_head_dim":0)", "attention_head_dim", "at least 1"},
      {R"("attention_head_dim":17)", "attention_head_dim", "at most the level's"},
      {R"("attention_head_dim":[2,null])", "attention_head_dim", "integer"},
      {R"("cross_attention_dim":[8,8,8])", "cross_attention_dim", "needs 2 entries"},
      {R"("down_block_types":["CrossAttnDownBlock2D","CrossAttnDownBlock2D"],
           "cross_attention_dim":[8,9])",
       "cross_attention_dim", "same at all levels"},
      {R"("cross_attention_dim":[8,8],"encoder_hid_dim":4)", "cross_attention_dim", "a number"},
      {R"("encoder_hid_dim_type":"text_proj")", "encoder_hid_dim_type", "needs encoder_hid_dim"},
      {R"("only_cross_attention":[true])", "only_cross_attention", "needs 2 entries"},
      {R"("only_cross_attention":[true,1])", "only_cross_attention", "true or false"},
      {R"("only_cross_attention":1)", "only_cross_attention", "true or false"},
      {R"("norm_num_groups":3)", "norm_num_groups", "does not divide 8"},
      {R"("norm_num_groups":0)", "norm_num_groups", "at least 1"},
      {R"("norm_eps":-1)", "norm_eps", "negative"},
      {R"("mid_block_scale_factor":0)", "mid_block_scale_factor", "0"},
      {R"("dropout":2)", "dropout", "0 to 1"},
      {R"("sample_size":-1)", "sample_size", "1 to"},
      {R"("sample_size":[8,8,8])", "sample_size", "needs 2 entries"},
      {R"("freq_shift":4)", "freq_shift", "half of"},
      {R"("freq_shift":"x")", "freq_shift", "number"},
      {R"("time_embedding_type":"fourier","time_embedding_dim":7)", "time_embedding_dim", "even"},
      {R"("time_cond_proj_dim":0)", "time_cond_proj_dim", "at least 1"},
      {R"("num_class_embeds":0)", "num_class_embeds", "at least 1"},
      {R"("class_embed_type":"projection")", "class_embed_type",
       "needs projection_class_embeddings_input_dim"},
      {R"("class_embed_type":"simple_projection")", "class_embed_type",
       "needs projection_class_embeddings_input_dim"},
      {R"("class_embeddings_concat":true)", "class_embeddings_concat", "needs class_embed_type"},
      {R"("addition_embed_type":"text_time")", "addition_embed_type",
       "needs addition_time_embed_dim"},
      {R"("addition_embed_type":"text_time","addition_time_embed_dim":4)", "addition_embed_type",
       "needs projection_class_embeddings_input_dim"},
      {R"("addition_embed_type":"text_time","addition_time_embed_dim":2,"freq_shift":1,
           "projection_class_embeddings_input_dim":16)",
       "freq_shift", "half of addition_time_embed_dim"},
      {R"("addition_embed_type":"text","class_embeddings_concat":true,"num_class_embeds":2)",
       "addition_embed_type", "does not go with"},
      {R"("addition_embed_type":"text","addition_embed_type_num_heads":3)",
       "addition_embed_type_num_heads", "must divide the text's width 8"},
      {R"("addition_embed_type":"text","cross_attention_dim":[8,8])", "cross_attention_dim",
       "a number"},
  };
  for (const auto& item : kCases) {
    EXPECT_THAT(
        MessageOf([&] { Read(item.more); }),
        AllOf(HasSubstr("unet/config.json: option"), HasSubstr(item.key), HasSubstr(item.says)))
        << item.more;
  }
}

// For diffusers null is a value that was given.
TEST(UNetConfigTest, NullIsNotTheDefault) {
  for (const char* key : {"in_channels",
                          "out_channels",
                          "freq_shift",
                          "down_block_types",
                          "up_block_types",
                          "only_cross_attention",
                          "block_out_channels",
                          "layers_per_block",
                          "downsample_padding",
                          "mid_block_scale_factor",
                          "act_fn",
                          "norm_num_groups",
                          "norm_eps",
                          "cross_attention_dim",
                          "transformer_layers_per_block",
                          "attention_head_dim",
                          "resnet_time_scale_shift",
                          "time_embedding_type",
                          "conv_in_kernel",
                          "conv_out_kernel"}) {
    EXPECT_THAT(MessageOf([&] { Read("\"" + std::string(key) + "\":null"); }),
                AllOf(HasSubstr(key), HasSubstr("must not be null")));
  }
  EXPECT_TRUE(Read("").flip_sin_to_cos);
  EXPECT_FALSE(Read(R"("flip_sin_to_cos":null)").flip_sin_to_cos);
  EXPECT_EQ(Read("").mid_block, MidBlockType::kCrossAttention);
  EXPECT_EQ(Read(R"("mid_block_type":null)").mid_block, MidBlockType::kNone);
  EXPECT_EQ(Read(R"("_use_default_values":["mid_block_type"],"mid_block_type":null)").mid_block,
            MidBlockType::kCrossAttention);
}

TEST(UNetConfigTest, LevelsHalveAsTheConvolutionsRound) {
  EXPECT_EQ(Read("").downsampled(7), 4);
  EXPECT_EQ(Read(R"("downsample_padding":0)").downsampled(7), 3);
}

TEST(UNetConfigTest, WhatDiffusersIgnoresIsIgnored) {
  const UNetConfig config = Read(R"("_name_or_path":[1],"unheard_of":{"a":1},"dropout":0.3,
      "cross_attention_norm":"group_norm","resnet_out_scale_factor":2,"resnet_skip_time_act":true,
      "mid_block_only_cross_attention":true,"addition_time_embed_dim":4,
      "attention_head_dim":[null,2],"cross_attention_dim":[null,8])");
  EXPECT_THAT(config.cross_attention_dim, ElementsAre(8, 8));
  EXPECT_EQ(config.addition_embed_type, AdditionEmbedType::kNone);
  EXPECT_FALSE(HasParameter(config, "down_blocks.1.attentions.0.transformer_blocks.0.norm_cross"));
}

TEST(UNetConfigTest, DepthsAreThoseOfEachResnet) {
  const UNetConfig config = Read(R"("layers_per_block":2,"act_fn":"SiLU",
      "down_block_types":["UNetResDownBlock2D","CrossAttnDownBlock2D"],
      "transformer_layers_per_block":[7,[1,3,9]],
      "reverse_transformer_layers_per_block":[[4,0,5],6])");
  EXPECT_EQ(config.down_depth(1, 0), 1);
  EXPECT_EQ(config.down_depth(1, 1), 3);
  EXPECT_EQ(config.mid_depth(), 1);
  EXPECT_EQ(config.up_depth(0, 1), 0);
  EXPECT_EQ(config.up_depth(0, 2), 5);
  EXPECT_TRUE(HasParameter(config, "up_blocks.0.attentions.1.proj_in.weight"));
  EXPECT_FALSE(HasParameter(config, "up_blocks.0.attentions.1.transformer_blocks.0.norm1.weight"));
  EXPECT_TRUE(HasParameter(config, "up_blocks.0.attentions.2.transformer_blocks.4.norm1.weight"));
}

// diffusers passes only_cross_attention to the down and up blocks alone.
TEST(UNetConfigTest, TheMiddleBlockKeepsItsSelfAttention) {
  const auto shapes = UNet2DConditionModel::ParameterShapes(Read(R"("only_cross_attention":true)"));
  const std::string key = ".attentions.0.transformer_blocks.0.attn1.to_k.weight";
  EXPECT_THAT(shapes.at("down_blocks.1" + key), ElementsAre(16, 8));
  EXPECT_THAT(shapes.at("up_blocks.0" + key), ElementsAre(16, 8));
  EXPECT_THAT(shapes.at("mid_block" + key), ElementsAre(16, 16));
}

// Parameters as the published models have them.
TEST(UNetConfigTest, PublishedModelsHaveTheirSizes) {
  const std::string xl = R"("use_linear_projection":true,"addition_embed_type":"text_time",
      "addition_time_embed_dim":256,)";
  const std::string xl_levels = R"("block_out_channels":[320,640,1280],"cross_attention_dim":2048,
      "attention_head_dim":[5,10,20],"projection_class_embeddings_input_dim":2816,
      "down_block_types":["DownBlock2D","CrossAttnDownBlock2D","CrossAttnDownBlock2D"],
      "up_block_types":["CrossAttnUpBlock2D","CrossAttnUpBlock2D","UpBlock2D"],)";
  const struct {
    const char* name;
    std::string options;
    size_t tensors;
    int64_t parameters;
  } kModels[] = {
      {"Stable Diffusion 1.5", R"("cross_attention_dim":768)", 686, 859'520'964},
      {"Stable Diffusion 2.1",
       R"("cross_attention_dim":1024,"attention_head_dim":[5,10,20,20],
          "use_linear_projection":true)",
       686, 865'910'724},
      {"Stable Diffusion XL", xl + xl_levels + R"("transformer_layers_per_block":[1,2,10])", 1680,
       2'567'463'684},
      {"Stable Diffusion XL refiner",
       xl + R"("block_out_channels":[384,768,1536,1536],"cross_attention_dim":1280,
          "attention_head_dim":[6,12,24,24],"projection_class_embeddings_input_dim":2560,
          "down_block_types":["DownBlock2D","CrossAttnDownBlock2D","CrossAttnDownBlock2D",
                              "DownBlock2D"],
          "up_block_types":["UpBlock2D","CrossAttnUpBlock2D","CrossAttnUpBlock2D","UpBlock2D"],
          "transformer_layers_per_block":4)",
       1220, 2'259'526'660},
      {"SSD-1B", xl + xl_levels + R"("mid_block_type":"UNetMidBlock2D",
          "transformer_layers_per_block":[[0,0],[2,2],[4,4]],
          "reverse_transformer_layers_per_block":[[4,4,10],[2,1,1],1])",
       944, 1'331'334'404},
      {"x4 upscaler",
       R"("block_out_channels":[256,512,512,1024],"cross_attention_dim":1024,"in_channels":7,
          "use_linear_projection":true,"num_class_embeds":1000,
          "only_cross_attention":[true,true,true,false],
          "down_block_types":["DownBlock2D","CrossAttnDownBlock2D","CrossAttnDownBlock2D",
                              "CrossAttnDownBlock2D"],
          "up_block_types":["CrossAttnUpBlock2D","CrossAttnUpBlock2D","CrossAttnUpBlock2D",
                            "UpBlock2D"])",
       687, 473'398'020},
      {"BK-SDM-Tiny",
       R"("block_out_channels":[320,640,1280],"cross_attention_dim":768,"layers_per_block":1,
          "mid_block_type":null,
          "down_block_types":["CrossAttnDownBlock2D","CrossAttnDownBlock2D",
                              "CrossAttnDownBlock2D"],
          "up_block_types":["CrossAttnUpBlock2D","CrossAttnUpBlock2D","CrossAttnUpBlock2D"])",
       358, 323'384'964},
  };
  for (const auto& model : kModels) {
    const ShapeMap shapes = UNet2DConditionModel::ParameterShapes(
        UNetConfig::FromJson("{" + model.options + "}", model.name));
    int64_t parameters = 0;
    for (const auto& [name, shape] : shapes) {
      parameters +=
          std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<int64_t>());
    }
    EXPECT_EQ(shapes.size(), model.tensors) << model.name;
    EXPECT_EQ(parameters, model.parameters) << model.name;
  }
}

}  // namespace
}  // namespace d2g::model

// The text encoder: what is refused, and where its outputs are taken. Values are compared with
// transformers in component_golden_test.cc and tools/parity.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/network/clip_text_model.h"
#include "model/weights/random_weights.h"
#include "tests/model/temp_folder.h"

namespace d2g::model {
namespace {

using ::testing::HasSubstr;

ClipTextConfig Tiny(int64_t layers) {
  ClipTextConfig config;
  config.vocab_size = 10;
  config.hidden_size = 8;
  config.intermediate_size = 8;
  config.num_hidden_layers = layers;
  config.num_attention_heads = 2;
  config.max_position_embeddings = 4;
  config.projection_dim = 3;
  return config;
}

TensorMap Weights(const ClipTextConfig& config) {
  return RandomParameters(1, ClipTextModel::ParameterShapes(config));
}

TEST(ClipTextModelTest, BadIdsAreNamed) {
  const ClipTextModel model(Tiny(0), Weights(Tiny(0)));
  EXPECT_EQ(model.Forward(at::zeros({1, 4}, at::kLong)).sizes(), at::IntArrayRef({1, 4, 8}));
  auto message = [&](const at::Tensor& ids) { return MessageOf([&] { model.Run(ids); }); };
  EXPECT_THAT(message(at::full({1, 2}, 10, at::kLong)),
              HasSubstr("token id 10 is not below vocab_size = 10"));
  EXPECT_THAT(message(at::full({1, 2}, -1, at::kLong)), HasSubstr("token id -1"));
  EXPECT_THAT(message(at::zeros({1, 5}, at::kLong)), HasSubstr("max_position_embeddings = 4"));
  EXPECT_THAT(message(at::zeros({5}, at::kLong)), HasSubstr("not int64 [B, L]"));
  EXPECT_THAT(message(at::zeros({1, 2})), HasSubstr("not int64 [B, L]"));
  EXPECT_THAT(message(at::zeros({0, 2}, at::kLong)), HasSubstr("not int64 [B, L]"));
}

TEST(ClipTextModelTest, UnsupportedConfigsAreNamed) {
  const struct {
    const char* json;
    const char* message;
  } kCases[] = {
      {"[]", "config.json: not a JSON object"},
      {R"({"architectures":["T5EncoderModel"]})", "architectures"},
      {R"({"architectures":["CLIPVisionModel"]})", "architectures"},
      {R"({"model_type":"t5"})", "\"model_type\" is \"t5\""},
      {R"({"model_type":"clip","text_config":{"model_type":"clip_vision_model"}})",
       "text_config: option \"model_type\""},
      {R"({"text_config":7})", "text_config: not a JSON object"},
      {R"({"text_config":{"vocab_size":0}})", "text_config: option \"vocab_size\" is 0"},
      {R"({"vocab_size":0})", "\"vocab_size\" is 0: must be at least 1"},
      {R"({"hidden_size":-8})", "hidden_size"},
      {R"({"intermediate_size":0})", "intermediate_size"},
      {R"({"num_hidden_layers":-1})", "num_hidden_layers"},
      {R"({"num_hidden_layers":1000000000})", "must be at most 1000"},
      {R"({"num_attention_heads":0})", "num_attention_heads"},
      {R"({"num_attention_heads":7})", "must divide hidden_size 512"},
      {R"({"max_position_embeddings":0})", "max_position_embeddings"},
      {R"({"projection_dim":0})", "projection_dim"},
      {R"({"layer_norm_eps":-1})", "layer_norm_eps"},
      {R"({"eos_token_id":[2]})", "eos_token_id"},
      {R"({"hidden_act":"snake"})", "\"hidden_act\" is \"snake\""},
      {R"({"use_attention_mask":true})", "use_attention_mask"},
  };
  const TempFolder folder;
  for (const auto& item : kCases) {
    const std::string path = folder.Write("config.json", item.json);
    EXPECT_THAT(MessageOf([&] { ClipTextConfig::FromFile(path); }), HasSubstr(item.message));
  }
  for (const char* const json :
       {"{}", R"({"architectures":["CLIPTextModel"],"model_type":"clip_text_model"})",
        R"({"architectures":["CLIPModel"],"model_type":"clip"})", R"({"projection_dim":null})"}) {
    const std::string path = folder.Write("config.json", json);
    EXPECT_FALSE(ClipTextConfig::FromFile(path).has_projection);
  }
}

TEST(ClipTextModelTest, PooledOutputIsTakenAtTheEndToken) {
  const at::Tensor ids = at::tensor({1, 7, 9, 7, 1, 7, 9, 9, 0, 1, 2, 3}, at::kLong).view({3, 4});
  const struct {
    int64_t eos_token_id;
    std::vector<int64_t> positions;
  } kCases[] = {{7, {1, 1, 0}}, {9, {2, 2, 0}}, {2, {2, 2, 3}}, {49407, {0, 0, 0}}};
  for (const auto& item : kCases) {
    ClipTextConfig config = Tiny(1);
    config.eos_token_id = item.eos_token_id;
    const ClipTextOutput output = ClipTextModel(config, Weights(config)).Run(ids);
    for (int64_t i = 0; i < 3; ++i) {
      EXPECT_TRUE(at::equal(output.pooled_output[i],
                            output.last_hidden_state[i][item.positions[static_cast<size_t>(i)]]))
          << item.eos_token_id << " " << i;
    }
  }
}

TEST(ClipTextModelTest, OutputsDependOnTheModel) {
  const at::Tensor ids = at::zeros({2, 3}, at::kLong);
  EXPECT_FALSE(
      ClipTextModel(Tiny(0), Weights(Tiny(0))).Run(ids).penultimate_hidden_state.defined());
  ClipTextConfig config = Tiny(2);
  const ClipTextOutput plain = ClipTextModel(config, Weights(config)).Run(ids);
  EXPECT_EQ(plain.penultimate_hidden_state.sizes(), at::IntArrayRef({2, 3, 8}));
  EXPECT_FALSE(plain.text_embeds.defined());
  config.has_projection = true;
  const ClipTextModel projecting(config, Weights(config));
  EXPECT_EQ(projecting.Run(ids).text_embeds.sizes(), at::IntArrayRef({2, 3}));
  EXPECT_TRUE(projecting.parameters().contains("text_projection.weight"));
}

TEST(ClipTextModelTest, HalfPrecisionHidesWhatFollows) {
  const ClipTextConfig config = Tiny(2);
  for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf}) {
    const ClipTextModel model(config, Weights(config), dtype);
    const at::Tensor a = model.Forward(at::tensor({1, 2, 3, 4}, at::kLong).view({1, 4}));
    const at::Tensor b = model.Forward(at::tensor({1, 2, 5, 6}, at::kLong).view({1, 4}));
    EXPECT_TRUE(at::isfinite(a).all().item<bool>());
    EXPECT_TRUE(at::allclose(a.narrow(1, 0, 2), b.narrow(1, 0, 2), 1e-2, 1e-2));
    EXPECT_FALSE(at::allclose(a.narrow(1, 2, 2), b.narrow(1, 2, 2), 1e-2, 1e-2));
  }
}

TEST(ClipTextModelTest, FilesOfWholeModelsAreRead) {
  const TempFolder folder;
  ClipTextConfig config = Tiny(1);
  config.has_projection = true;
  TensorMap weights = Weights(config);
  const std::string text_config = R"({"vocab_size":10,"hidden_size":8,"intermediate_size":8,
      "num_hidden_layers":1,"num_attention_heads":2,"max_position_embeddings":4,
      "projection_dim":)";
  const auto load = [&](const TensorMap& tensors, const std::string& json) {
    folder.Write("config.json", json);
    WriteSafetensors(folder / "model.safetensors", tensors);
    return ClipTextModel::Load(folder.path());
  };
  const std::string whole = R"({"architectures":["CLIPModel"],"model_type":"clip","text_config":)";
  TensorMap extended = weights;
  extended["vision_model.embeddings.class_embedding"] = at::zeros({2});
  extended["visual_projection.weight"] = at::zeros({2, 2});
  extended["logit_scale"] = at::zeros({1});
  extended["text_model.embeddings.position_ids"] = at::zeros({1, 4}, at::kLong);
  EXPECT_TRUE(load(extended, whole + text_config + "3}}").config().has_projection);

  // A projection that does not fit is an error where one is asked for, and ignored elsewhere.
  EXPECT_FALSE(load(weights, text_config + "5}").config().has_projection);
  const std::string asked = R"(5,"architectures":["CLIPTextModelWithProjection"]})";
  EXPECT_THAT(MessageOf([&] { load(weights, text_config + asked); }),
              HasSubstr("text_projection.weight is [3, 8], not [5, 8]"));
  TensorMap without = weights;
  without.erase("text_projection.weight");
  EXPECT_THAT(MessageOf([&] { load(without, text_config + asked); }),
              HasSubstr("1 missing (text_projection.weight)"));
  TensorMap twice = weights;
  twice["final_layer_norm.bias"] = weights.at("text_model.final_layer_norm.bias");
  EXPECT_THAT(MessageOf([&] { load(twice, text_config + "3}"); }),
              HasSubstr("has both text_model.final_layer_norm.bias and final_layer_norm.bias"));
  TensorMap extra = weights;
  extra["text_model.surplus"] = at::zeros({2});
  EXPECT_THAT(MessageOf([&] { load(extra, text_config + "3}"); }),
              HasSubstr("1 unexpected (text_model.surplus)"));
}

}  // namespace
}  // namespace d2g::model

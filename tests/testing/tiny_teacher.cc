#include "tests/testing/tiny_teacher.h"

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "worker/model/network/autoencoder_kl.h"
#include "worker/model/network/unet_2d_condition.h"
#include "worker/model/weights/random_weights.h"
#include "worker/model/weights/safetensors.h"

namespace d2g::testing {
namespace {

using nlohmann::json;

constexpr int64_t kTextWidth = 16;
constexpr int64_t kTextLength = 8;
constexpr char kStart[] = "<|startoftext|>";
constexpr char kEnd[] = "<|endoftext|>";
// 256 bytes, 256 bytes that end a word, start and end.
constexpr int64_t kVocabulary = 514;

void WriteText(const std::string& path, const std::string& text) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream(path) << text;
}

void WriteJson(const std::string& path, const json& content) { WriteText(path, content.dump(1)); }

void WriteUNet(const std::string& folder, uint64_t seed) {
  const json config = {{"_class_name", "UNet2DConditionModel"},
                       {"sample_size", kTinyLatentSide},
                       {"in_channels", kTinyLatentChannels},
                       {"out_channels", kTinyLatentChannels},
                       {"down_block_types", {"DownBlock2D", "CrossAttnDownBlock2D"}},
                       {"up_block_types", {"CrossAttnUpBlock2D", "UpBlock2D"}},
                       {"mid_block_type", "UNetMidBlock2DCrossAttn"},
                       {"block_out_channels", {8, 16}},
                       {"layers_per_block", 1},
                       {"attention_head_dim", 2},
                       {"cross_attention_dim", kTextWidth},
                       {"norm_num_groups", 4}};
  WriteJson(folder + "/config.json", config);
  const auto shapes = model::UNet2DConditionModel::ParameterShapes(
      model::UNetConfig::FromJson(config.dump(), "tiny teacher"));
  model::WriteSafetensors(folder + "/diffusion_pytorch_model.safetensors",
                          model::RandomParameters(seed, shapes));
}

void WriteTextEncoder(const std::string& folder, uint64_t seed) {
  constexpr int64_t kInner = 2 * kTextWidth;
  WriteJson(folder + "/config.json", {{"architectures", {"CLIPTextModel"}},
                                      {"model_type", "clip_text_model"},
                                      {"vocab_size", kVocabulary},
                                      {"hidden_size", kTextWidth},
                                      {"intermediate_size", kInner},
                                      {"num_hidden_layers", 1},
                                      {"num_attention_heads", 2},
                                      {"max_position_embeddings", kTextLength},
                                      {"hidden_act", "quick_gelu"}});
  const std::string text = "text_model.";
  const std::string layer = text + "encoder.layers.0.";
  std::map<std::string, std::vector<int64_t>> shapes = {
      {text + "embeddings.token_embedding.weight", {kVocabulary, kTextWidth}},
      {text + "embeddings.position_embedding.weight", {kTextLength, kTextWidth}},
      {layer + "mlp.fc1.weight", {kInner, kTextWidth}},
      {layer + "mlp.fc1.bias", {kInner}},
      {layer + "mlp.fc2.weight", {kTextWidth, kInner}},
      {layer + "mlp.fc2.bias", {kTextWidth}}};
  for (const std::string& norm :
       {layer + "layer_norm1", layer + "layer_norm2", text + "final_layer_norm"}) {
    shapes[norm + ".weight"] = {kTextWidth};
    shapes[norm + ".bias"] = {kTextWidth};
  }
  for (const char* part : {"q_proj", "k_proj", "v_proj", "out_proj"}) {
    shapes[layer + "self_attn." + part + ".weight"] = {kTextWidth, kTextWidth};
    shapes[layer + "self_attn." + part + ".bias"] = {kTextWidth};
  }
  model::WriteSafetensors(folder + "/model.safetensors", model::RandomParameters(seed, shapes));
}

void WriteVae(const std::string& folder, uint64_t seed) {
  WriteJson(folder + "/config.json",
            {{"_class_name", "AutoencoderKL"},
             {"in_channels", 1},
             {"out_channels", 1},
             {"down_block_types", {"DownEncoderBlock2D", "DownEncoderBlock2D"}},
             {"up_block_types", {"UpDecoderBlock2D", "UpDecoderBlock2D"}},
             {"block_out_channels", {4, 8}},
             {"layers_per_block", 1},
             {"norm_num_groups", 4},
             {"latent_channels", kTinyLatentChannels}});
  const auto shapes = model::AutoencoderKL::ParameterShapes(
      model::AutoencoderConfig::FromFile(folder + "/config.json"));
  model::WriteSafetensors(folder + "/diffusion_pytorch_model.safetensors",
                          model::RandomParameters(seed, shapes));
}

// How CLIP's vocabulary writes a byte: printable ones as themselves, the others from U+0100 on.
std::string ByteSymbol(int byte) {
  int code = byte;
  const auto printable = [](int b) {
    return (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
  };
  if (!printable(byte)) {
    code = 256;
    for (int b = 0; b < byte; ++b) code += !printable(b);
  }
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xC0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3F))};
}

void WriteTokenizer(const std::string& folder) {
  json vocabulary;
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary[ByteSymbol(byte)] = byte;
    vocabulary[ByteSymbol(byte) + "</w>"] = 256 + byte;
  }
  vocabulary[kStart] = 512;
  vocabulary[kEnd] = 513;
  WriteJson(folder + "/vocab.json", vocabulary);
  WriteText(folder + "/merges.txt", "#version: 0.2\n");
  WriteJson(folder + "/tokenizer_config.json", {{"tokenizer_class", "CLIPTokenizer"},
                                                {"model_max_length", kTextLength},
                                                {"bos_token", kStart},
                                                {"eos_token", kEnd},
                                                {"unk_token", kEnd},
                                                {"pad_token", kEnd}});
}

}  // namespace

void WriteTinyTeacher(const std::string& folder, uint64_t seed) {
  const auto component = [](const char* library, const char* name) {
    return json::array({library, name});
  };
  WriteJson(folder + "/model_index.json",
            {{"_class_name", "StableDiffusionPipeline"},
             {"unet", component("diffusers", "UNet2DConditionModel")},
             {"vae", component("diffusers", "AutoencoderKL")},
             {"text_encoder", component("transformers", "CLIPTextModel")},
             {"tokenizer", component("transformers", "CLIPTokenizer")},
             {"scheduler", component("diffusers", "DDIMScheduler")}});
  WriteUNet(folder + "/unet", seed);
  WriteTextEncoder(folder + "/text_encoder", seed + 1);
  WriteTokenizer(folder + "/tokenizer");
  WriteJson(folder + "/scheduler/scheduler_config.json", {{"_class_name", "DDIMScheduler"},
                                                          {"beta_start", 0.00085},
                                                          {"beta_end", 0.012},
                                                          {"beta_schedule", "scaled_linear"},
                                                          {"prediction_type", "v_prediction"},
                                                          {"timestep_spacing", "trailing"}});
  WriteVae(folder + "/vae", seed + 2);
}

}  // namespace d2g::testing

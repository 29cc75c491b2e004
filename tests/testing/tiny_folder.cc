#include "tests/testing/tiny_folder.h"

#include <filesystem>
#include <fstream>

#include "model/config/clip_text_config.h"
#include "model/config/unet_parameters.h"
#include "model/config/vae_parameters.h"

namespace d2g::testing {
namespace {

using nlohmann::json;

constexpr int64_t kTextWidth = 16;
constexpr int64_t kTextLength = 8;
constexpr char kStart[] = "<|startoftext|>";
constexpr char kEnd[] = "<|endoftext|>";
// 256 bytes, 256 bytes that end a word, start and end.
constexpr int64_t kVocabulary = 514;

void WriteJson(const std::string& path, const json& content) { WriteText(path, content.dump(1)); }

void WriteListed(const std::string& path, const model::ShapeMap& shapes) {
  TinyTensors tensors;
  for (const auto& [name, shape] : shapes) tensors[name].shape = shape;
  WriteTensors(path, tensors);
}

void WriteUNet(const std::string& folder) {
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
  WriteListed(folder + "/diffusion_pytorch_model.safetensors",
              model::UNetParameters(model::UNetConfig::FromFile(folder + "/config.json")));
}

void WriteTextEncoder(const std::string& folder) {
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
  WriteListed(folder + "/model.safetensors",
              model::ClipTextParameters(model::ClipTextConfig::FromFile(folder + "/config.json")));
}

void WriteVae(const std::string& folder) {
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
  WriteListed(folder + "/diffusion_pytorch_model.safetensors",
              model::VaeParameters(model::AutoencoderConfig::FromFile(folder + "/config.json")));
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

void WriteText(const std::string& path, const std::string& text) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

void EditJson(const std::string& path, const std::function<void(json&)>& change) {
  json content = json::parse(std::ifstream(path));
  change(content);
  WriteText(path, content.dump(1));
}

void WriteTensors(const std::string& path, const TinyTensors& tensors) {
  json header = json::object();
  uint64_t end = 0;
  for (const auto& [name, tensor] : tensors) {
    uint64_t bytes = model::ElementSize(tensor.dtype);
    for (const int64_t side : tensor.shape) bytes *= static_cast<uint64_t>(side);
    header[name] = {{"dtype", model::NameOf(tensor.dtype)},
                    {"shape", tensor.shape},
                    {"data_offsets", {end, end + bytes}}};
    end += bytes;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  std::string file;
  for (int i = 0; i < 8; ++i) file.push_back(static_cast<char>(text.size() >> (8 * i)));
  WriteText(path, file + text + std::string(end, '\x3c'));
}

void EditTensors(const std::string& path, const std::function<void(TinyTensors&)>& change) {
  TinyTensors tensors;
  for (const auto& entry : model::ReadSafetensorsHeader(path).entries) {
    tensors[entry.name] = {entry.shape, entry.dtype};
  }
  change(tensors);
  WriteTensors(path, tensors);
}

void WriteTinyFolder(const std::string& folder) {
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
  WriteUNet(folder + "/unet");
  WriteTextEncoder(folder + "/text_encoder");
  WriteTokenizer(folder + "/tokenizer");
  WriteJson(folder + "/scheduler/scheduler_config.json", {{"_class_name", "DDIMScheduler"},
                                                          {"beta_start", 0.00085},
                                                          {"beta_end", 0.012},
                                                          {"beta_schedule", "scaled_linear"},
                                                          {"prediction_type", "v_prediction"},
                                                          {"timestep_spacing", "trailing"}});
  WriteVae(folder + "/vae");
}

void WriteTinyNet(const std::string& folder, int64_t channels) {
  constexpr int64_t kWidth = 2, kClasses = 3;
  const json conv = {{"type", "conv2d"},
                     {"in_channels", channels},
                     {"out_channels", kWidth},
                     {"kernel_size", 3},
                     {"padding", 1}};
  const json linear = {{"type", "linear"}, {"in_features", kWidth}, {"out_features", kClasses}};
  WriteJson(
      folder + "/config.json",
      {{"_class_name", "SequentialNet"},
       {"version", 1},
       {"image_channels", channels},
       {"image_size", 8},
       {"layers",
        {conv, {{"type", "relu"}}, {{"type", "avg_pool_global"}}, {{"type", "flatten"}}, linear}},
       {"taps", {{"features", 3}, {"logits", 4}}}});
  WriteTensors(folder + "/model.safetensors", {{"layers.0.weight", {{kWidth, channels, 3, 3}}},
                                               {"layers.0.bias", {{kWidth}}},
                                               {"layers.4.weight", {{kClasses, kWidth}}},
                                               {"layers.4.bias", {{kClasses}}}});
}

void WriteTinyEvaluator(const std::string& folder) {
  WriteTinyNet(folder, 1);
  EditJson(folder + "/config.json", [](json& config) {
    for (const char* name : {"apple", "house", "shoe"}) {
      config["labels"].push_back({{"name", name}, {"words", {name}}});
    }
  });
  constexpr auto kDouble = model::SafetensorsDtype::kF64;
  WriteTensors(folder + "/reference.safetensors",
               {{"mean", {{2}, kDouble}}, {"cov", {{2, 2}, kDouble}}});
}

}  // namespace d2g::testing

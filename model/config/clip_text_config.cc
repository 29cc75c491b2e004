#include "model/config/clip_text_config.h"

#include <algorithm>
#include <charconv>
#include <vector>

#include "model/files/error.h"
#include "model/files/json_config.h"

namespace d2g::model {

namespace {

constexpr const char* kPrefix = "text_model.";
constexpr const char* kProjection = "text_projection.weight";
constexpr const char* kLayers = "encoder.layers.";

struct ActivationName {
  const char* name;
  TextActivation activation;
};
// The first name of each is the one that is shown.
constexpr ActivationName kActivations[] = {{"quick_gelu", TextActivation::kQuickGelu},
                                           {"gelu", TextActivation::kGelu},
                                           {"gelu_python", TextActivation::kGelu},
                                           {"gelu_new", TextActivation::kTanhGelu},
                                           {"gelu_fast", TextActivation::kTanhGelu},
                                           {"gelu_pytorch_tanh", TextActivation::kTanhGelu},
                                           {"gelu_python_tanh", TextActivation::kTanhGelu},
                                           {"gelu_accurate", TextActivation::kTanhGelu},
                                           {"silu", TextActivation::kSilu},
                                           {"swish", TextActivation::kSilu},
                                           {"relu", TextActivation::kRelu},
                                           {"mish", TextActivation::kMish},
                                           {"tanh", TextActivation::kTanh}};

// A CLIPModel's other half, and buffers that old versions saved.
bool IsForeign(const std::string& name) {
  return name.ends_with("position_ids") || name.starts_with("vision_model.") ||
         name == "visual_projection.weight" || name == "logit_scale";
}

bool IsTextModule(const std::string& name) {
  for (const char* module : {"embeddings.", "encoder.", "final_layer_norm."}) {
    if (name.starts_with(module)) return true;
  }
  return false;
}

// The number of the encoder layer that a parameter, without prefix, belongs to; -1: none.
int64_t LayerOf(std::string_view name) {
  if (!name.starts_with(kLayers)) return -1;
  name.remove_prefix(std::string_view(kLayers).size());
  int64_t layer = -1;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), layer);
  const bool whole = error == std::errc() && end != name.data() + name.size() && *end == '.';
  return whole ? layer : -1;
}

Placement Place(const std::string& name, const ClipTextConfig& config) {
  if (IsForeign(name) || (name == kProjection && !config.has_projection)) return {};
  const std::string prefix = kPrefix;
  const bool complete = name.starts_with(prefix);
  if (!complete && !IsTextModule(name)) return {.parameter = name};
  const std::string bare = complete ? name.substr(prefix.size()) : name;
  if (LayerOf(bare) >= config.num_hidden_layers) {
    return {.why =
                "of layers beyond num_hidden_layers = " + std::to_string(config.num_hidden_layers)};
  }
  return {.parameter = prefix + bare};
}

// Throws Error unless a list of class names, if there is one, holds a text model.
void CheckArchitectures(const JsonConfig& config) {
  const std::vector<std::string> names = config.Strings("architectures", {});
  for (const char* const name : {"CLIPTextModel", "CLIPTextModelWithProjection", "CLIPModel"}) {
    if (std::count(names.begin(), names.end(), name) > 0) return;
  }
  if (names.empty()) return;
  config.FailAt("architectures",
                "not supported (only CLIPTextModel and CLIPTextModelWithProjection are)");
}

}  // namespace

std::string ClipTextTensorName(const std::string& name) {
  return IsTextModule(name) ? kPrefix + name : name;
}

std::optional<TextActivation> FindTextActivation(const std::string& name) {
  for (const ActivationName& known : kActivations) {
    if (name == known.name) return known.activation;
  }
  return std::nullopt;
}

std::string TextActivationName(TextActivation activation) {
  for (const ActivationName& known : kActivations) {
    if (activation == known.activation) return known.name;
  }
  Fail("unknown activation");
}

ClipTextConfig ClipTextConfig::FromFile(const std::string& path) {
  const JsonConfig file(ReadJsonFile(path), path);
  CheckArchitectures(file);
  const bool nested = file.Has("text_config");
  const JsonConfig json =
      nested ? JsonConfig(file.Get("text_config"), path + ": text_config") : file;
  const std::string type = json.String("model_type", "clip_text_model");
  if (type != "clip_text_model" && type != "clip") {
    json.FailAt("model_type", "not supported (only clip_text_model is)");
  }
  json.RequireDefault("use_attention_mask", false);
  ClipTextConfig c;
  c.vocab_size = json.IntAtLeast("vocab_size", c.vocab_size, 1);
  c.hidden_size = json.IntAtLeast("hidden_size", c.hidden_size, 1);
  c.intermediate_size = json.IntAtLeast("intermediate_size", c.intermediate_size, 1);
  c.num_hidden_layers = json.IntAtLeast("num_hidden_layers", c.num_hidden_layers, 0);
  if (c.num_hidden_layers > kMaxConfigLayers) {
    json.FailAt("num_hidden_layers", "must be at most " + std::to_string(kMaxConfigLayers));
  }
  c.num_attention_heads = json.IntAtLeast("num_attention_heads", c.num_attention_heads, 1);
  c.max_position_embeddings =
      json.IntAtLeast("max_position_embeddings", c.max_position_embeddings, 1);
  const auto activation =
      FindTextActivation(json.String("hidden_act", TextActivationName(c.activation)));
  if (!activation) {
    json.FailAt("hidden_act",
                "not supported (quick_gelu, gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, silu, "
                "relu, mish and tanh are)");
  }
  c.activation = *activation;
  c.layer_norm_eps = json.Double("layer_norm_eps", c.layer_norm_eps);
  if (c.layer_norm_eps < 0) json.FailAt("layer_norm_eps", "must be at least 0");
  c.eos_token_id = json.Int("eos_token_id", c.eos_token_id);
  c.projection_dim = json.IntAtLeast("projection_dim", c.projection_dim, 1);
  const std::vector<std::string> names = file.Strings("architectures", {});
  c.has_projection = std::count(names.begin(), names.end(), "CLIPTextModelWithProjection") > 0;
  if (c.hidden_size % c.num_attention_heads != 0) {
    json.FailAt("num_attention_heads", "must divide hidden_size " + std::to_string(c.hidden_size));
  }
  return c;
}

ShapeMap ClipTextParameters(const ClipTextConfig& c) {
  const std::string p = kPrefix;
  ParameterList list;
  list.Add(p + "embeddings.token_embedding.weight", {c.vocab_size, c.hidden_size});
  list.Add(p + "embeddings.position_embedding.weight", {c.max_position_embeddings, c.hidden_size});
  for (int64_t i = 0; i < c.num_hidden_layers; ++i) {
    const std::string layer = p + kLayers + std::to_string(i);
    list.Norm(layer + ".layer_norm1", c.hidden_size);
    for (const char* part : {"q_proj", "k_proj", "v_proj", "out_proj"}) {
      list.Linear(layer + ".self_attn." + part, c.hidden_size, c.hidden_size);
    }
    list.Norm(layer + ".layer_norm2", c.hidden_size);
    list.Linear(layer + ".mlp.fc1", c.hidden_size, c.intermediate_size);
    list.Linear(layer + ".mlp.fc2", c.intermediate_size, c.hidden_size);
  }
  list.Norm(p + "final_layer_norm", c.hidden_size);
  if (c.has_projection) list.Add(kProjection, {c.projection_dim, c.hidden_size});
  return list.shapes();
}

ParameterRules ClipTextParameterRules(const ClipTextConfig& config) {
  return {.modules = {"text_projection"},
          .place = [config](const std::string& name, const StoredTensor&) {
            return Place(name, config);
          }};
}

ClipTextConfig WithStoredProjection(ClipTextConfig config, const StoredTensors& stored) {
  const auto projection = stored.find(kProjection);
  if (projection != stored.end() &&
      projection->second.shape == std::vector<int64_t>{config.projection_dim, config.hidden_size}) {
    config.has_projection = true;
  }
  return config;
}

}  // namespace d2g::model

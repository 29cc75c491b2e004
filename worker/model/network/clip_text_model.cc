#include "worker/model/network/clip_text_model.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "worker/model/files/error.h"
#include "worker/model/files/json_config.h"
#include "worker/model/network/attention.h"

namespace d2g::model {

namespace {

constexpr const char* kPrefix = "text_model.";
constexpr const char* kProjection = "text_projection.weight";
// What old configs call their end token, whichever it is.
constexpr int64_t kLegacyEosTokenId = 2;

using ActivationFunction = at::Tensor (*)(const at::Tensor&);

// transformers' names; the approximations by tanh are one function written in several ways.
ActivationFunction FindActivation(const std::string& name) {
  if (name == "quick_gelu") {
    return [](const at::Tensor& x) { return Activate(Activation::kQuickGelu, x); };
  }
  if (name == "gelu" || name == "gelu_python") {
    return [](const at::Tensor& x) { return at::gelu(x); };
  }
  for (const char* const tanh :
       {"gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_accurate"}) {
    if (name == tanh) return [](const at::Tensor& x) { return at::gelu(x, "tanh"); };
  }
  if (name == "silu" || name == "swish") return [](const at::Tensor& x) { return at::silu(x); };
  if (name == "relu") return [](const at::Tensor& x) { return at::relu(x); };
  if (name == "mish") return [](const at::Tensor& x) { return at::mish(x); };
  if (name == "tanh") return [](const at::Tensor& x) { return at::tanh(x); };
  return nullptr;
}

struct EncoderLayer {
  EncoderLayer(ParameterReader& reader, const std::string& name, const ClipTextConfig& c)
      : norm1(reader, name + ".layer_norm1", c.hidden_size, c.layer_norm_eps),
        q(reader, name + ".self_attn.q_proj", c.hidden_size, c.hidden_size),
        k(reader, name + ".self_attn.k_proj", c.hidden_size, c.hidden_size),
        v(reader, name + ".self_attn.v_proj", c.hidden_size, c.hidden_size),
        out(reader, name + ".self_attn.out_proj", c.hidden_size, c.hidden_size),
        norm2(reader, name + ".layer_norm2", c.hidden_size, c.layer_norm_eps),
        fc1(reader, name + ".mlp.fc1", c.hidden_size, c.intermediate_size),
        fc2(reader, name + ".mlp.fc2", c.intermediate_size, c.hidden_size),
        heads(c.num_attention_heads),
        activation(FindActivation(c.hidden_act)) {}

  at::Tensor operator()(const at::Tensor& x, const at::Tensor& mask) const {
    const at::Tensor n = norm1(x);
    const at::Tensor attended = DotProductAttention(
        SplitHeads(q(n), heads), SplitHeads(k(n), heads), SplitHeads(v(n), heads), mask);
    const at::Tensor h = out(MergeHeads(attended), x);
    return fc2(activation(fc1(norm2(h))), h);
  }

  LayerNorm norm1;
  Linear q, k, v, out;
  LayerNorm norm2;
  Linear fc1, fc2;
  int64_t heads;
  ActivationFunction activation;
};

// A CLIPModel's other half.
bool IsOfWholeModel(const std::string& name) {
  return name.starts_with("vision_model.") || name == "visual_projection.weight" ||
         name == "logit_scale";
}

// That, and buffers that old versions saved.
bool IsIgnored(const std::string& name) {
  return name.ends_with("position_ids") || IsOfWholeModel(name);
}

// The parameters by their prefixed names, without those that are not used.
TensorMap Normalised(const TensorMap& parameters, const ClipTextConfig& config,
                     const std::string& what) {
  const std::string prefix = kPrefix;
  TensorMap normalised;
  for (const auto& [name, tensor] : parameters) {
    if (IsIgnored(name) || (name == kProjection && !config.has_projection)) continue;
    const std::string full = ClipTextTensorName(name);
    if (!normalised.emplace(full, tensor).second) {
      Fail(what, ": has both ", full, " and ", full.substr(prefix.size()));
    }
  }
  return normalised;
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
  const bool complete = name.starts_with(kPrefix) || name == kProjection || IsOfWholeModel(name);
  return complete ? name : kPrefix + name;
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
  c.hidden_act = json.String("hidden_act", c.hidden_act);
  if (FindActivation(c.hidden_act) == nullptr) {
    json.FailAt("hidden_act",
                "not supported (quick_gelu, gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, silu, "
                "relu, mish and tanh are)");
  }
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

struct ClipTextModel::Impl {
  Impl(const ClipTextConfig& c, ParameterReader& reader) : config(c) {
    const std::string p = kPrefix;
    token_embedding =
        reader.Take(p + "embeddings.token_embedding.weight", {c.vocab_size, c.hidden_size});
    position_embedding = reader.Take(p + "embeddings.position_embedding.weight",
                                     {c.max_position_embeddings, c.hidden_size});
    for (int64_t i = 0; i < c.num_hidden_layers; ++i) {
      layers.emplace_back(reader, p + "encoder.layers." + std::to_string(i), c);
    }
    final_norm = LayerNorm(reader, p + "final_layer_norm", c.hidden_size, c.layer_norm_eps);
    if (c.has_projection) {
      text_projection = reader.Take(kProjection, {c.projection_dim, c.hidden_size});
    }
    reader.Finish();
    parameters = reader.taken();
  }

  // The row of last_hidden_state, flattened to [B * L, hidden_size], that stands for each text.
  at::Tensor PooledRows(const at::Tensor& ids) const {
    const at::Tensor narrow = ids.to(at::kInt);
    const at::Tensor position = config.eos_token_id == kLegacyEosTokenId
                                    ? narrow.argmax(-1)
                                    : narrow.eq(config.eos_token_id).to(at::kInt).argmax(-1);
    return at::arange(ids.size(0), position.options()) * ids.size(1) + position;
  }

  ClipTextConfig config;
  at::Tensor token_embedding, position_embedding;
  std::vector<EncoderLayer> layers;
  LayerNorm final_norm;
  at::Tensor text_projection;
  TensorMap parameters;
};

ClipTextModel ClipTextModel::Load(const std::string& folder, const LoadOptions& options) {
  ClipTextConfig config = ClipTextConfig::FromFile(folder + "/config.json");
  const TensorMap stored = ReadSafetensorsFolder(folder, "model", options.variant);
  const auto projection = stored.find(kProjection);
  if (projection != stored.end() &&
      projection->second.sizes() == at::IntArrayRef({config.projection_dim, config.hidden_size})) {
    config.has_projection = true;
  }
  const TensorMap tensors = Normalised(stored, config, folder);
  ParameterReader reader(tensors, folder, options);
  ClipTextModel model;
  model.impl_ = std::make_unique<Impl>(config, reader);
  return model;
}

ClipTextModel::ClipTextModel() = default;
ClipTextModel::ClipTextModel(const ClipTextConfig& config, const TensorMap& parameters,
                             const at::TensorOptions& options) {
  const TensorMap normalised = Normalised(parameters, config, "text encoder");
  ParameterReader reader(normalised, "text encoder", options);
  impl_ = std::make_unique<Impl>(config, reader);
}
ClipTextModel::~ClipTextModel() = default;
ClipTextModel::ClipTextModel(ClipTextModel&&) noexcept = default;
ClipTextModel& ClipTextModel::operator=(ClipTextModel&&) noexcept = default;

ClipTextOutput ClipTextModel::Run(const at::Tensor& input_ids) const {
  const Impl& m = *impl_;
  if (input_ids.dim() != 2 || input_ids.scalar_type() != at::kLong || input_ids.numel() == 0) {
    Fail("text encoder: input_ids is ", input_ids.sizes(), " ", input_ids.scalar_type(),
         ", not int64 [B, L]");
  }
  const int64_t length = input_ids.size(1);
  if (length > m.config.max_position_embeddings) {
    Fail("text encoder: ", length,
         " tokens are over max_position_embeddings = ", m.config.max_position_embeddings);
  }
  const int64_t least = input_ids.min().item<int64_t>();
  const int64_t largest = input_ids.max().item<int64_t>();
  if (least < 0 || largest >= m.config.vocab_size) {
    Fail("text encoder: token id ", least < 0 ? least : largest,
         " is not below vocab_size = ", m.config.vocab_size);
  }
  const at::Tensor ids = input_ids.to(m.token_embedding.device());
  at::Tensor x = at::embedding(m.token_embedding, ids) + m.position_embedding.narrow(0, 0, length);
  const at::Tensor mask =
      at::full({length, length}, -std::numeric_limits<float>::infinity(), x.options()).triu(1);
  ClipTextOutput output;
  for (const EncoderLayer& layer : m.layers) {
    output.penultimate_hidden_state = x;
    x = layer(x, mask);
  }
  output.last_hidden_state = m.final_norm(x);
  output.pooled_output = output.last_hidden_state.flatten(0, 1).index_select(0, m.PooledRows(ids));
  if (m.text_projection.defined()) {
    output.text_embeds = at::linear(output.pooled_output, m.text_projection);
  }
  return output;
}

at::Tensor ClipTextModel::Forward(const at::Tensor& input_ids) const {
  return Run(input_ids).last_hidden_state;
}

const TensorMap& ClipTextModel::parameters() const { return impl_->parameters; }
const ClipTextConfig& ClipTextModel::config() const { return impl_->config; }

ShapeMap ClipTextModel::ParameterShapes(const ClipTextConfig& config) {
  ParameterReader reader;
  const Impl impl(config, reader);
  return reader.shapes();
}

}  // namespace d2g::model

#include "worker/model/clip_text_model.h"

#include <limits>
#include <set>
#include <utility>
#include <vector>

#include "worker/model/attention.h"
#include "worker/model/error.h"
#include "worker/model/json_config.h"

namespace d2g::model {

namespace {

constexpr const char* kPrefix = "text_model.";

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
        activation(ParseActivation(c.hidden_act, "hidden_act")) {}

  at::Tensor operator()(const at::Tensor& x, const at::Tensor& mask) const {
    const at::Tensor n = norm1(x);
    const at::Tensor attended = DotProductAttention(
        SplitHeads(q(n), heads), SplitHeads(k(n), heads), SplitHeads(v(n), heads), mask);
    const at::Tensor h = x + out(MergeHeads(attended));
    return h + fc2(Activate(activation, fc1(norm2(h))));
  }

  LayerNorm norm1;
  Linear q, k, v, out;
  LayerNorm norm2;
  Linear fc1, fc2;
  int64_t heads;
  Activation activation;
};

// The parameters by their prefixed names, without those that CLIPTextModel does not use.
TensorMap Normalised(const TensorMap& parameters) {
  const std::string prefix = kPrefix;
  TensorMap normalised;
  for (const auto& [name, tensor] : parameters) {
    if (name.ends_with("position_ids") || name == "text_projection.weight") continue;
    normalised[name.starts_with(prefix) ? name : prefix + name] = tensor;
  }
  return normalised;
}

}  // namespace

ClipTextConfig ClipTextConfig::FromFile(const std::string& path) {
  const JsonConfig json(ReadJsonFile(path), path);
  json.RequireDefault("use_attention_mask", false);
  ClipTextConfig c;
  c.vocab_size = json.IntAtLeast("vocab_size", c.vocab_size, 1);
  c.hidden_size = json.IntAtLeast("hidden_size", c.hidden_size, 1);
  c.intermediate_size = json.IntAtLeast("intermediate_size", c.intermediate_size, 1);
  c.num_hidden_layers = json.IntAtLeast("num_hidden_layers", c.num_hidden_layers, 0);
  c.num_attention_heads = json.IntAtLeast("num_attention_heads", c.num_attention_heads, 1);
  c.max_position_embeddings =
      json.IntAtLeast("max_position_embeddings", c.max_position_embeddings, 1);
  c.hidden_act = json.String("hidden_act", c.hidden_act);
  ParseActivation(c.hidden_act, path);
  c.layer_norm_eps = json.Double("layer_norm_eps", c.layer_norm_eps);
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
    reader.Finish();
    parameters = reader.taken();
  }

  ClipTextConfig config;
  at::Tensor token_embedding, position_embedding;
  std::vector<EncoderLayer> layers;
  LayerNorm final_norm;
  TensorMap parameters;
};

ClipTextModel ClipTextModel::Load(const std::string& folder, const LoadOptions& options) {
  const ClipTextConfig config = ClipTextConfig::FromFile(folder + "/config.json");
  const TensorMap tensors = Normalised(ReadSafetensorsFolder(folder, "model", options.variant));
  ParameterReader reader(tensors, folder, options);
  ClipTextModel model;
  model.impl_ = std::make_unique<Impl>(config, reader);
  return model;
}

ClipTextModel::ClipTextModel() = default;
ClipTextModel::ClipTextModel(const ClipTextConfig& config, const TensorMap& parameters,
                             const at::TensorOptions& options) {
  const TensorMap normalised = Normalised(parameters);
  ParameterReader reader(normalised, "text encoder", options);
  impl_ = std::make_unique<Impl>(config, reader);
}
ClipTextModel::~ClipTextModel() = default;
ClipTextModel::ClipTextModel(ClipTextModel&&) noexcept = default;
ClipTextModel& ClipTextModel::operator=(ClipTextModel&&) noexcept = default;

at::Tensor ClipTextModel::Forward(const at::Tensor& input_ids) const {
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
  for (const EncoderLayer& layer : m.layers) x = layer(x, mask);
  return m.final_norm(x);
}

const TensorMap& ClipTextModel::parameters() const { return impl_->parameters; }
const ClipTextConfig& ClipTextModel::config() const { return impl_->config; }

ShapeMap ClipTextModel::ParameterShapes(const ClipTextConfig& config) {
  ParameterReader reader;
  const Impl impl(config, reader);
  return reader.shapes();
}

}  // namespace d2g::model

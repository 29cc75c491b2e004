#include "model/network/clip_text_model.h"

#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "model/files/error.h"
#include "model/network/attention.h"

namespace d2g::model {

namespace {

constexpr const char* kPrefix = "text_model.";
constexpr const char* kProjection = "text_projection.weight";
// What old configs call their end token, whichever it is.
constexpr int64_t kLegacyEosTokenId = 2;

at::Tensor ApplyActivation(TextActivation activation, const at::Tensor& x) {
  switch (activation) {
    case TextActivation::kQuickGelu:
      return Activate(Activation::kQuickGelu, x);
    case TextActivation::kGelu:
      return at::gelu(x);
    case TextActivation::kTanhGelu:
      return at::gelu(x, "tanh");
    case TextActivation::kSilu:
      return at::silu(x);
    case TextActivation::kRelu:
      return at::relu(x);
    case TextActivation::kMish:
      return at::mish(x);
    case TextActivation::kTanh:
      return at::tanh(x);
  }
  Fail("unknown activation");
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
        activation(c.activation) {}

  at::Tensor operator()(const at::Tensor& x, const at::Tensor& mask) const {
    const at::Tensor n = norm1(x);
    const at::Tensor attended = kernels::Attention(SplitHeads(q(n), heads), SplitHeads(k(n), heads),
                                                   SplitHeads(v(n), heads), mask);
    const at::Tensor h = out(MergeHeads(attended), x);
    return fc2(ApplyActivation(activation, fc1(norm2(h))), h);
  }

  LayerNorm norm1;
  Linear q, k, v, out;
  LayerNorm norm2;
  Linear fc1, fc2;
  int64_t heads;
  TextActivation activation;
};

}  // namespace

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
  const TensorMap stored = ReadSafetensorsFolder(folder, "model", options.variant);
  const ClipTextConfig config = WithStoredProjection(
      ClipTextConfig::FromFile(folder + "/config.json"), StoredTensorsOf(stored));
  const TensorMap tensors =
      MatchedParameters(stored, ClipTextParameters(config), ClipTextParameterRules(config), folder);
  ParameterReader reader(tensors, folder, options);
  ClipTextModel model;
  model.impl_ = std::make_unique<Impl>(config, reader);
  return model;
}

ClipTextModel::ClipTextModel() = default;
ClipTextModel::ClipTextModel(const ClipTextConfig& config, const TensorMap& parameters,
                             const at::TensorOptions& options) {
  const TensorMap tensors = MatchedParameters(parameters, ClipTextParameters(config),
                                              ClipTextParameterRules(config), "text encoder");
  ParameterReader reader(tensors, "text encoder", options);
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
  return ClipTextParameters(config);
}

}  // namespace d2g::model

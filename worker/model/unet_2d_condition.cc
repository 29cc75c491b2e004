#include "worker/model/unet_2d_condition.h"

#include <cmath>
#include <optional>
#include <utility>

#include "worker/model/error.h"
#include "worker/model/unet_blocks.h"

namespace d2g::model {

namespace {

constexpr double kMaxPeriod = 10000;

// The sinusoidal embedding of timesteps [N], fp32 [N, width].
// Source: diffusers 0.35.2, models/embeddings.py, get_timestep_embedding.
at::Tensor TimestepEmbedding(const at::Tensor& timesteps, int64_t width, bool cosine_first,
                             double freq_shift) {
  const int64_t half = width / 2;
  const at::Tensor exponent = at::arange(half, timesteps.options()) * -std::log(kMaxPeriod) /
                              (static_cast<double>(half) - freq_shift);
  const at::Tensor angle = timesteps.unsqueeze(1) * at::exp(exponent).unsqueeze(0);
  const at::Tensor sine = at::sin(angle), cosine = at::cos(angle);
  at::Tensor embedding = cosine_first ? at::cat({cosine, sine}, 1) : at::cat({sine, cosine}, 1);
  if (width % 2 == 1) embedding = at::constant_pad_nd(embedding, {0, 1});
  return embedding;
}

// Every parameter of the network, in place. Built the same way from tensors or for shapes only.
struct Network {
  Network(ParameterReader& reader, const UNetConfig& c)
      : conv_in(reader, "conv_in", c.in_channels, c.block_out_channels.front(), c.conv_in_kernel, 1,
                (c.conv_in_kernel - 1) / 2),
        time_1(reader, "time_embedding.linear_1", c.block_out_channels.front(),
               c.time_embedding_width()),
        time_2(reader, "time_embedding.linear_2", c.time_embedding_width(),
               c.time_embedding_width()),
        norm_out(reader, "conv_norm_out", c.norm_num_groups, c.block_out_channels.front(),
                 c.norm_eps),
        conv_out(reader, "conv_out", c.block_out_channels.front(), c.out_channels,
                 c.conv_out_kernel, 1, (c.conv_out_kernel - 1) / 2) {
    for (size_t i = 0; i < c.block_out_channels.size(); ++i) down.emplace_back(reader, c, i);
    if (c.has_mid_block) mid.emplace(reader, c);
    for (size_t i = 0; i < c.block_out_channels.size(); ++i) up.emplace_back(reader, c, i);
  }

  // Calls f(transformer) in the order of the visit.
  template <typename Self, typename F>
  static void ForEachTransformer(Self& self, F&& f) {
    auto in_layers = [&](auto& layers) {
      for (auto& layer : layers) {
        if (layer.attention) f(*layer.attention);
      }
    };
    for (auto& block : self.down) in_layers(block.layers);
    if (self.mid) f(self.mid->attention);
    for (auto& block : self.up) in_layers(block.layers);
  }

  Conv2d conv_in;
  Linear time_1, time_2;
  std::vector<DownBlock> down;
  std::optional<MidBlock> mid;
  std::vector<UpBlock> up;
  GroupNorm norm_out;
  Conv2d conv_out;
};

}  // namespace

struct UNet2DConditionModel::Impl {
  Impl(const UNetConfig& c, ParameterReader& reader)
      : config(c), activation(ParseActivation(c.act_fn, "act_fn")), network(reader, c) {
    reader.Finish();
    parameters = reader.taken();
    packed_weights = reader.packed_weights();
  }

  at::Tensor Run(const at::Tensor& sample, const at::Tensor& timestep, const TextKeyValues& text,
                 const UNetTaps* taps) const;
  void CheckInput(const at::Tensor& sample) const;
  TextKeyValues MakeText(const at::Tensor& hidden) const;

  UNetConfig config;
  Activation activation;
  Network network;
  TensorMap parameters;
  PackedWeights packed_weights;
  bool prepared = false;
};

void UNet2DConditionModel::Impl::CheckInput(const at::Tensor& sample) const {
  if (sample.dim() != 4 || sample.size(1) != config.in_channels || sample.size(2) < 1 ||
      sample.size(3) < 1) {
    Fail("unet: sample is ", sample.sizes(), ", not [B, ", config.in_channels, ", H, W]");
  }
}

TextKeyValues UNet2DConditionModel::Impl::MakeText(const at::Tensor& hidden) const {
  if (hidden.dim() != 3 || hidden.size(2) != config.cross_attention_dim.front()) {
    Fail("unet: encoder_hidden_states is ", hidden.sizes(), ", not [B, L, ",
         config.cross_attention_dim.front(), "]");
  }
  const at::Tensor converted = hidden.to(network.conv_in.weight.options());
  TextKeyValues text;
  Network::ForEachTransformer(network, [&](const SpatialTransformer& transformer) {
    transformer.MakeKeyValues(converted, text);
  });
  return text;
}

at::Tensor UNet2DConditionModel::Impl::Run(const at::Tensor& sample, const at::Tensor& timestep,
                                           const TextKeyValues& text, const UNetTaps* taps) const {
  CheckInput(sample);
  const Network& net = network;
  const at::TensorOptions options = net.conv_in.weight.options();
  auto add_tap = [&](const at::Tensor& x, size_t level) {
    if (taps == nullptr || level >= taps->add_at_level.size()) return x;
    const at::Tensor& extra = taps->add_at_level[level];
    if (!extra.defined()) return x;
    if (extra.sizes() != x.sizes()) {
      Fail("unet: add_at_level[", level, "] is ", extra.sizes(), ", not ", x.sizes());
    }
    return x + extra;
  };

  const at::Tensor embedding = TimestepEmbedding(
      timestep.to(options.dtype(at::kFloat)).reshape({-1}), config.block_out_channels.front(),
      config.flip_sin_to_cos, config.freq_shift);
  if (embedding.size(0) != 1 && embedding.size(0) != sample.size(0)) {
    Fail("unet: ", embedding.size(0), " timesteps for a batch of ", sample.size(0));
  }
  const at::Tensor time =
      net.time_2(Activate(activation, net.time_1(embedding.to(options.dtype()))));
  const int64_t batch = text.empty() ? sample.size(0) : text.front().key.size(0);
  BlockContext context{Activate(activation, time), text.data(), batch};

  at::Tensor x = sample.to(options);
  if (config.center_input_sample) x = 2 * x - 1;
  x = add_tap(net.conv_in(x), 0);
  std::vector<at::Tensor> skips = {x};
  for (size_t level = 0; level < net.down.size(); ++level) {
    const DownBlock& block = net.down[level];
    for (const UNetLayer& layer : block.layers) {
      x = layer(x, context);
      skips.push_back(x);
    }
    if (taps != nullptr && taps->down_features != nullptr) taps->down_features->push_back(x);
    if (block.downsample) {
      x = add_tap((*block.downsample)(x), level + 1);
      skips.push_back(x);
    }
  }
  if (net.mid) x = (*net.mid)(x, context);
  for (const UpBlock& block : net.up) {
    for (const UNetLayer& layer : block.layers) {
      x = layer(ConcatChannels(x, Repeated(skips.back(), x.size(0))), context);
      skips.pop_back();
    }
    if (taps != nullptr && taps->up_features != nullptr) taps->up_features->push_back(x);
    if (block.upsample) {
      // The size of the next skip: twice this one, except after an odd size was halved.
      x = (*block.upsample)(x, skips.back().size(2), skips.back().size(3));
    }
  }
  return net.conv_out(net.norm_out.Activated(activation, Repeated(x, context.batch))).contiguous();
}

UNet2DConditionModel UNet2DConditionModel::Load(const std::string& folder,
                                                const at::TensorOptions& options) {
  const UNetConfig config = UNetConfig::FromFile(folder + "/config.json");
  const TensorMap tensors = ReadSafetensorsFolder(folder, "diffusion_pytorch_model");
  ParameterReader reader(tensors, folder, options);
  UNet2DConditionModel model(std::make_unique<Impl>(config, reader));
  return model;
}

UNet2DConditionModel::UNet2DConditionModel(const UNetConfig& config, const TensorMap& parameters,
                                           const at::TensorOptions& options) {
  ParameterReader reader(parameters, "unet", options);
  impl_ = std::make_unique<Impl>(config, reader);
}

UNet2DConditionModel::UNet2DConditionModel(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
UNet2DConditionModel::~UNet2DConditionModel() = default;
UNet2DConditionModel::UNet2DConditionModel(UNet2DConditionModel&&) noexcept = default;
UNet2DConditionModel& UNet2DConditionModel::operator=(UNet2DConditionModel&&) noexcept = default;

at::Tensor UNet2DConditionModel::Forward(const at::Tensor& sample, double timestep,
                                         const at::Tensor& encoder_hidden_states,
                                         const UNetTaps* taps) const {
  return Forward(sample, at::full({1}, timestep, at::kFloat), encoder_hidden_states, taps);
}

at::Tensor UNet2DConditionModel::Forward(const at::Tensor& sample, const at::Tensor& timestep,
                                         const at::Tensor& encoder_hidden_states,
                                         const UNetTaps* taps) const {
  const TextKeyValues text = impl_->MakeText(encoder_hidden_states);
  if (encoder_hidden_states.size(0) != sample.size(0)) {
    Fail("unet: ", encoder_hidden_states.size(0), " encoder_hidden_states for a batch of ",
         sample.size(0));
  }
  return impl_->Run(sample, timestep, text, taps);
}

TextKeyValues UNet2DConditionModel::PrecomputeText(const at::Tensor& encoder_hidden_states) const {
  TextKeyValues text = impl_->MakeText(encoder_hidden_states);
  for (KeyValue& entry : text) {
    entry.key = entry.key.contiguous();
    entry.value = entry.value.contiguous();
  }
  return text;
}

at::Tensor UNet2DConditionModel::Forward(const at::Tensor& sample, double timestep,
                                         const TextKeyValues& text) const {
  size_t expected = 0;
  Network::ForEachTransformer(impl_->network, [&](const SpatialTransformer& transformer) {
    expected += transformer.layers.size();
  });
  if (text.size() != expected) Fail("unet: the text was not made by this network's PrecomputeText");
  if (expected > 0 && (sample.dim() != 4 || sample.size(0) == 0 ||
                       text.front().key.size(0) % sample.size(0) != 0)) {
    Fail("unet: text of ", text.front().key.size(0), " rows for sample ", sample.sizes());
  }
  return impl_->Run(sample, at::full({1}, timestep, at::kFloat), text, nullptr);
}

const TensorMap& UNet2DConditionModel::parameters() const { return impl_->parameters; }
const UNetConfig& UNet2DConditionModel::config() const { return impl_->config; }

void UNet2DConditionModel::CopyParametersFrom(const TensorMap& parameters) {
  CopyParameters(parameters, impl_->parameters, "unet");
  if (impl_->prepared) PrepareForInference();
}

void UNet2DConditionModel::PrepareForInference() {
  for (const std::shared_ptr<PackedWeight>& weight : impl_->packed_weights) weight->Pack();
  impl_->prepared = true;
}

ShapeMap UNet2DConditionModel::ParameterShapes(const UNetConfig& config) {
  ParameterReader reader;
  const Network network(reader, config);
  return reader.shapes();
}

}  // namespace d2g::model

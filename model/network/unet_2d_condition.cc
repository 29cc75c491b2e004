#include "model/network/unet_2d_condition.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "model/config/unet_parameters.h"
#include "model/files/error.h"
#include "model/network/no_history.h"
#include "model/network/unet_blocks.h"

namespace d2g::model {

namespace {

// Every parameter of the network, in place.
struct Network {
  Network(ParameterReader& reader, const UNetConfig& c)
      : conv_in(reader, "conv_in", c.in_channels, c.block_out_channels.front(), c.conv_in_kernel, 1,
                (c.conv_in_kernel - 1) / 2),
        conditions(reader, c),
        norm_out(reader, "conv_norm_out", c.norm_num_groups, c.block_out_channels.front(),
                 c.norm_eps),
        conv_out(reader, "conv_out", c.block_out_channels.front(), c.out_channels,
                 c.conv_out_kernel, 1, (c.conv_out_kernel - 1) / 2) {
    for (size_t i = 0; i < c.block_out_channels.size(); ++i) down.emplace_back(reader, c, i);
    if (c.mid_block != MidBlockType::kNone) mid.emplace(reader, c);
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
    if (self.mid && self.mid->first.attention) f(*self.mid->first.attention);
    for (auto& block : self.up) in_layers(block.layers);
  }

  Conv2d conv_in;
  ConditionEmbedding conditions;
  std::vector<DownBlock> down;
  std::optional<MidBlock> mid;
  std::vector<UpBlock> up;
  GroupNorm norm_out;
  Conv2d conv_out;
};

}  // namespace

struct UNet2DConditionModel::Impl {
  Impl(const UNetConfig& c, ParameterReader& reader) : config(c), network(reader, c) {
    reader.Finish();
    parameters = reader.taken();
    packed_weights = reader.packed_weights();
  }

  at::Tensor Run(const at::Tensor& sample, const at::Tensor& timestep,
                 const PreparedConditions& conditions, const UNetTaps* taps) const;
  void CheckInput(const at::Tensor& sample) const;
  PreparedConditions Prepare(const UNetConditions& conditions) const;
  // [1] on the network's device.
  at::Tensor OneTimestep(double timestep) const {
    return at::full({1}, timestep, network.conv_in.weight.options().dtype(at::kFloat));
  }
  // Keys and values that the cross attentions together read.
  size_t text_entries() const;

  UNetConfig config;
  Network network;
  TensorMap parameters;
  PackedWeights packed_weights;
};

void UNet2DConditionModel::Impl::CheckInput(const at::Tensor& sample) const {
  if (sample.dim() != 4 || sample.size(0) < 1 || sample.size(1) != config.in_channels ||
      sample.size(2) < 1 || sample.size(3) < 1) {
    Fail("unet: sample is ", sample.sizes(), ", not [B, ", config.in_channels, ", H, W]");
  }
  // Without padding each level halves and rounds down.
  const int64_t smallest = config.downsample_padding == 0 ? int64_t{1} << (config.levels() - 1) : 1;
  if (std::min(sample.size(2), sample.size(3)) < smallest) {
    Fail("unet: sample is ", sample.sizes(), ", must be at least ", smallest, " high and wide");
  }
}

size_t UNet2DConditionModel::Impl::text_entries() const {
  size_t entries = 0;
  Network::ForEachTransformer(network, [&](const SpatialTransformer& transformer) {
    entries += transformer.text_entries();
  });
  return entries;
}

PreparedConditions UNet2DConditionModel::Impl::Prepare(const UNetConditions& conditions) const {
  const at::Tensor& hidden = conditions.encoder_hidden_states;
  const bool reads_text =
      text_entries() > 0 || config.addition_embed_type == AdditionEmbedType::kText;
  if (reads_text && !hidden.defined()) Fail("unet: needs encoder_hidden_states");
  if (hidden.defined() && (hidden.dim() != 3 || hidden.size(0) < 1 || hidden.size(1) < 1 ||
                           (reads_text && hidden.size(2) != config.text_width()))) {
    Fail("unet: encoder_hidden_states is ", hidden.sizes(), ", not [B, L, ", config.text_width(),
         "]");
  }
  const at::TensorOptions options = network.conv_in.weight.options();
  PreparedConditions prepared = network.conditions.Prepare(conditions, options);
  if (text_entries() == 0) return prepared;
  const at::Tensor text = network.conditions.Text(hidden, options);
  Network::ForEachTransformer(network, [&](const SpatialTransformer& transformer) {
    transformer.MakeKeyValues(text, prepared.text);
  });
  return prepared;
}

at::Tensor UNet2DConditionModel::Impl::Run(const at::Tensor& sample, const at::Tensor& timestep,
                                           const PreparedConditions& conditions,
                                           const UNetTaps* taps) const {
  const NoHistory no_history;
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

  const int64_t batch = conditions.rows == 0 ? sample.size(0) : conditions.rows;
  if (timestep.numel() != 1 && timestep.numel() != sample.size(0)) {
    Fail("unet: ", timestep.numel(), " timesteps for a batch of ", sample.size(0));
  }
  if (batch % sample.size(0) != 0) {
    Fail("unet: conditions of ", batch, " rows for a batch of ", sample.size(0));
  }
  const at::Tensor time = net.conditions.Time(timestep, conditions, options);
  BlockContext context{Activate(config.act_fn, time), conditions.text.data(), batch};

  at::Tensor x = sample.to(options);
  // Convolutions of half precision then keep it so (PackedWeight::Pack).
  if (x.is_cuda() && x.scalar_type() != at::kFloat) {
    x = x.contiguous(at::MemoryFormat::ChannelsLast);
  }
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
      x = layer(kernels::ConcatChannels(x, Repeated(skips.back(), x.size(0))), context);
      skips.pop_back();
    }
    if (taps != nullptr && taps->up_features != nullptr) taps->up_features->push_back(x);
    if (block.upsample) {
      // The size of the next skip: twice this one, except after an odd size was halved.
      x = (*block.upsample)(x, skips.back().size(2), skips.back().size(3));
    }
  }
  return net.conv_out(net.norm_out.Activated(config.act_fn, Repeated(x, context.batch)))
      .contiguous();
}

UNet2DConditionModel UNet2DConditionModel::Load(const std::string& folder,
                                                const LoadOptions& options) {
  const UNetConfig config = UNetConfig::FromFile(folder + "/config.json");
  const TensorMap tensors =
      MatchedParameters(ReadSafetensorsFolder(folder, "diffusion_pytorch_model", options.variant),
                        UNetParameters(config), UNetParameterRules(), folder);
  ParameterReader reader(tensors, folder, options);
  UNet2DConditionModel model(std::make_unique<Impl>(config, reader));
  return model;
}

UNet2DConditionModel::UNet2DConditionModel(const UNetConfig& config, const TensorMap& parameters,
                                           const at::TensorOptions& options) {
  const TensorMap tensors =
      MatchedParameters(parameters, UNetParameters(config), UNetParameterRules(), "unet");
  ParameterReader reader(tensors, "unet", options);
  impl_ = std::make_unique<Impl>(config, reader);
}

UNet2DConditionModel::UNet2DConditionModel(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
UNet2DConditionModel::~UNet2DConditionModel() = default;
UNet2DConditionModel::UNet2DConditionModel(UNet2DConditionModel&&) noexcept = default;
UNet2DConditionModel& UNet2DConditionModel::operator=(UNet2DConditionModel&&) noexcept = default;

at::Tensor UNet2DConditionModel::Forward(const at::Tensor& sample, double timestep,
                                         const at::Tensor& encoder_hidden_states,
                                         const UNetTaps* taps) const {
  return Forward(sample, impl_->OneTimestep(timestep), encoder_hidden_states, taps);
}

at::Tensor UNet2DConditionModel::Forward(const at::Tensor& sample, const at::Tensor& timestep,
                                         const at::Tensor& encoder_hidden_states,
                                         const UNetTaps* taps) const {
  return Forward(sample, timestep, UNetConditions{encoder_hidden_states}, taps);
}

at::Tensor UNet2DConditionModel::Forward(const at::Tensor& sample, const at::Tensor& timestep,
                                         const UNetConditions& conditions,
                                         const UNetTaps* taps) const {
  impl_->CheckInput(sample);
  const PreparedConditions prepared = impl_->Prepare(conditions);
  if (prepared.rows != 0 && prepared.rows != sample.size(0)) {
    const bool text = conditions.encoder_hidden_states.defined();
    Fail("unet: ", text ? "encoder_hidden_states" : "conditions", " of ", prepared.rows,
         " rows for a batch of ", sample.size(0));
  }
  return impl_->Run(sample, timestep, prepared, taps);
}

PreparedConditions UNet2DConditionModel::PrepareConditions(const UNetConditions& conditions) const {
  PreparedConditions prepared = impl_->Prepare(conditions);
  for (KeyValue& entry : prepared.text) {
    entry.key = entry.key.contiguous();
    entry.value = entry.value.contiguous();
  }
  return prepared;
}

at::Tensor UNet2DConditionModel::Forward(const at::Tensor& sample, double timestep,
                                         const PreparedConditions& conditions) const {
  return Forward(sample, impl_->OneTimestep(timestep), conditions);
}

at::Tensor UNet2DConditionModel::Forward(const at::Tensor& sample, const at::Tensor& timestep,
                                         const PreparedConditions& conditions) const {
  if (conditions.text.size() != impl_->text_entries()) {
    Fail("unet: the conditions were not made by this network's PrepareConditions");
  }
  return impl_->Run(sample, timestep, conditions, nullptr);
}

const TensorMap& UNet2DConditionModel::parameters() const { return impl_->parameters; }
const UNetConfig& UNet2DConditionModel::config() const { return impl_->config; }

void UNet2DConditionModel::CopyParametersFrom(const TensorMap& parameters) {
  CopyParameters(parameters, impl_->parameters, "unet");
  for (const std::shared_ptr<PackedWeight>& weight : impl_->packed_weights) {
    if (weight->packed()) weight->Pack();
  }
}

void UNet2DConditionModel::PrepareForInference() {
  for (const std::shared_ptr<PackedWeight>& weight : impl_->packed_weights) weight->Pack();
}

ShapeMap UNet2DConditionModel::ParameterShapes(const UNetConfig& config) {
  return UNetParameters(config);
}

}  // namespace d2g::model

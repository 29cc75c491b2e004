#include "worker/model/unet_blocks.h"

#include <algorithm>
#include <utility>

namespace d2g::model {

namespace {

ResnetOptions Resnet(const UNetConfig& config, int64_t in, int64_t out) {
  ResnetOptions options;
  options.in_channels = in;
  options.out_channels = out;
  options.time_width = config.time_embedding_width();
  options.groups = config.norm_num_groups;
  options.eps = config.norm_eps;
  options.activation = ParseActivation(config.act_fn, "act_fn");
  options.scale_shift = config.scale_shift_time;
  return options;
}

ResnetOptions MidResnet(const UNetConfig& config) {
  const int64_t channels = config.block_out_channels.back();
  ResnetOptions options = Resnet(config, channels, channels);
  options.output_scale = config.mid_block_scale_factor;
  return options;
}

TransformerOptions Transformer(const UNetConfig& config, size_t level) {
  TransformerOptions options;
  options.channels = config.block_out_channels[level];
  options.heads = config.attention_heads[level];
  options.depth = config.transformer_layers_per_block[level];
  options.context_width = config.cross_attention_dim[level];
  options.norm_groups = config.norm_num_groups;
  options.linear_projection = config.use_linear_projection;
  options.upcast = config.upcast_attention;
  return options;
}

UNetLayer MakeLayer(ParameterReader& reader, const std::string& block, int64_t index,
                    const ResnetOptions& resnet, bool attends, const TransformerOptions& options) {
  const std::string number = std::to_string(index);
  UNetLayer layer{ResnetBlock(reader, block + ".resnets." + number, resnet), std::nullopt};
  if (attends) layer.attention.emplace(reader, block + ".attentions." + number, options);
  return layer;
}

}  // namespace

at::Tensor Repeated(const at::Tensor& x, int64_t rows) {
  if (x.size(0) == rows) return x;
  // Unlike repeat, cat leaves channels where they lie in memory.
  return at::cat(std::vector<at::Tensor>(static_cast<size_t>(rows / x.size(0)), x));
}

at::Tensor UNetLayer::operator()(const at::Tensor& x, BlockContext& context) const {
  at::Tensor h = resnet(x, context.time);
  if (attention) {
    h = (*attention)(Repeated(h, context.batch), context.text);
    context.text += attention->layers.size();
  }
  return h;
}

DownBlock::DownBlock(ParameterReader& reader, const UNetConfig& config, size_t level) {
  const std::string name = "down_blocks." + std::to_string(level);
  const int64_t out = config.block_out_channels[level];
  const int64_t in = level == 0 ? out : config.block_out_channels[level - 1];
  const bool attends = config.down_block_types[level] == "CrossAttnDownBlock2D";
  for (int64_t i = 0; i < config.layers_per_block[level]; ++i) {
    layers.push_back(MakeLayer(reader, name, i, Resnet(config, i == 0 ? in : out, out), attends,
                               Transformer(config, level)));
  }
  if (level + 1 < config.block_out_channels.size()) {
    downsample.emplace(reader, name + ".downsamplers.0", out, config.downsample_padding);
  }
}

MidBlock::MidBlock(ParameterReader& reader, const UNetConfig& config)
    : first(reader, "mid_block.resnets.0", MidResnet(config)),
      attention(reader, "mid_block.attentions.0",
                Transformer(config, config.block_out_channels.size() - 1)),
      second(reader, "mid_block.resnets.1", MidResnet(config)) {}

at::Tensor MidBlock::operator()(const at::Tensor& x, BlockContext& context) const {
  const at::Tensor h = attention(Repeated(first(x, context.time), context.batch), context.text);
  context.text += attention.layers.size();
  return second(h, context.time);
}

UpBlock::UpBlock(ParameterReader& reader, const UNetConfig& config, size_t position) {
  const std::string name = "up_blocks." + std::to_string(position);
  const size_t levels = config.block_out_channels.size();
  const size_t level = levels - 1 - position;
  const int64_t out = config.block_out_channels[level];
  const int64_t below = config.block_out_channels[std::min(level + 1, levels - 1)];
  const int64_t above = config.block_out_channels[level == 0 ? 0 : level - 1];
  const bool attends = config.up_block_types[position] == "CrossAttnUpBlock2D";
  const int64_t count = config.layers_per_block[level] + 1;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t skip = i == count - 1 ? above : out;
    const int64_t in = (i == 0 ? below : out) + skip;
    layers.push_back(
        MakeLayer(reader, name, i, Resnet(config, in, out), attends, Transformer(config, level)));
  }
  if (level > 0) upsample.emplace(reader, name + ".upsamplers.0", out);
}

}  // namespace d2g::model

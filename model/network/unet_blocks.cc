#include "model/network/unet_blocks.h"

#include <algorithm>
#include <utility>

namespace d2g::model {

namespace {

ResnetOptions Resnet(const UNetConfig& config, int64_t in, int64_t out) {
  ResnetOptions options;
  options.in_channels = in;
  options.out_channels = out;
  options.time_width = config.block_time_width();
  options.groups = config.norm_num_groups;
  options.eps = config.norm_eps;
  options.activation = config.act_fn;
  options.scale_shift = config.scale_shift_time;
  return options;
}

ResnetOptions MidResnet(const UNetConfig& config) {
  const int64_t channels = config.block_out_channels.back();
  ResnetOptions options = Resnet(config, channels, channels);
  options.output_scale = config.mid_block_scale_factor;
  return options;
}

// At `level`, with `depth` layers.
TransformerOptions Transformer(const UNetConfig& config, size_t level, int64_t depth) {
  TransformerOptions options;
  options.channels = config.block_out_channels[level];
  options.heads = config.attention_heads[level];
  options.depth = depth;
  options.context_width = config.cross_attention_dim[level];
  options.norm_groups = config.norm_num_groups;
  options.linear_projection = config.use_linear_projection;
  options.upcast = config.upcast_attention;
  options.only_cross_attention = config.only_cross_attends(level);
  return options;
}

std::string Numbered(const std::string& prefix, size_t number) {
  return prefix + std::to_string(number);
}

}  // namespace

at::Tensor UNetLayer::operator()(const at::Tensor& x, BlockContext& context) const {
  at::Tensor h = resnet(x, context.time);
  if (attention) {
    h = (*attention)(Repeated(h, context.batch), context.text);
    context.text += attention->text_entries();
  }
  return h;
}

DownBlock::DownBlock(ParameterReader& reader, const UNetConfig& config, size_t level) {
  const std::string name = "down_blocks." + std::to_string(level);
  const int64_t out = config.block_out_channels[level];
  const int64_t in = level == 0 ? out : config.block_out_channels[level - 1];
  const size_t count = static_cast<size_t>(config.layers_per_block[level]);
  for (size_t i = 0; i < count; ++i) {
    UNetLayer& layer =
        layers.emplace_back(UNetLayer{ResnetBlock(reader, Numbered(name + ".resnets.", i),
                                                  Resnet(config, i == 0 ? in : out, out)),
                                      std::nullopt});
    if (config.down_attends(level)) {
      layer.attention.emplace(reader, Numbered(name + ".attentions.", i),
                              Transformer(config, level, config.down_depth(level, i)));
    }
  }
  if (level + 1 < config.block_out_channels.size()) {
    downsample.emplace(reader, name + ".downsamplers.0", out, config.downsample_padding);
  }
}

MidBlock::MidBlock(ParameterReader& reader, const UNetConfig& config)
    : first{ResnetBlock(reader, "mid_block.resnets.0", MidResnet(config)), std::nullopt} {
  if (config.mid_block != MidBlockType::kCrossAttention) return;
  TransformerOptions options =
      Transformer(config, config.block_out_channels.size() - 1, config.mid_depth());
  // diffusers keeps the self attention here whatever the options say.
  options.only_cross_attention = false;
  first.attention.emplace(reader, "mid_block.attentions.0", options);
  second.emplace(reader, "mid_block.resnets.1", MidResnet(config));
}

at::Tensor MidBlock::operator()(const at::Tensor& x, BlockContext& context) const {
  const at::Tensor h = first(x, context);
  return second ? (*second)(h, context.time) : h;
}

UpBlock::UpBlock(ParameterReader& reader, const UNetConfig& config, size_t position) {
  const std::string name = "up_blocks." + std::to_string(position);
  const size_t levels = config.block_out_channels.size();
  const size_t level = levels - 1 - position;
  const int64_t out = config.block_out_channels[level];
  const int64_t below = config.block_out_channels[std::min(level + 1, levels - 1)];
  const int64_t above = config.block_out_channels[level == 0 ? 0 : level - 1];
  const size_t count = static_cast<size_t>(config.layers_per_block[level]) + 1;
  for (size_t i = 0; i < count; ++i) {
    const int64_t skip = i == count - 1 ? above : out;
    const int64_t in = (i == 0 ? below : out) + skip;
    UNetLayer& layer = layers.emplace_back(
        UNetLayer{ResnetBlock(reader, Numbered(name + ".resnets.", i), Resnet(config, in, out)),
                  std::nullopt});
    if (config.up_attends(position)) {
      layer.attention.emplace(reader, Numbered(name + ".attentions.", i),
                              Transformer(config, level, config.up_depth(position, i)));
    }
  }
  if (level > 0) upsample.emplace(reader, name + ".upsamplers.0", out);
}

}  // namespace d2g::model

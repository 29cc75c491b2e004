#include "model/network/vae_networks.h"

#include "model/network/attention.h"

namespace d2g::model {

namespace {

constexpr double kNormEps = 1e-6;

ResnetOptions Resnet(const VaeNetworkOptions& vae, int64_t in, int64_t out) {
  ResnetOptions options;
  options.in_channels = in;
  options.out_channels = out;
  options.groups = vae.groups;
  options.eps = kNormEps;
  options.activation = vae.activation;
  return options;
}

std::string Indexed(const std::string& name, int64_t index) {
  return name + "." + std::to_string(index);
}

}  // namespace

VaeAttention::VaeAttention(ParameterReader& reader, const std::string& name, int64_t channels,
                           int64_t groups)
    : norm(reader, name + ".group_norm", groups, channels, kNormEps),
      q(reader, name + ".to_q", channels, channels),
      k(reader, name + ".to_k", channels, channels),
      v(reader, name + ".to_v", channels, channels),
      out(reader, name + ".to_out.0", channels, channels) {}

at::Tensor VaeAttention::operator()(const at::Tensor& x) const {
  const at::Tensor h = ToTokens(norm(x));
  const at::Tensor attended =
      kernels::Attention(SplitHeads(q(h), 1), SplitHeads(k(h), 1), SplitHeads(v(h), 1));
  return x + ToPicture(out(MergeHeads(attended)), x);
}

VaeMidBlock::VaeMidBlock(ParameterReader& reader, const std::string& name,
                         const VaeNetworkOptions& options)
    : first(reader, name + ".resnets.0",
            Resnet(options, options.widths.back(), options.widths.back())),
      second(reader, name + ".resnets.1",
             Resnet(options, options.widths.back(), options.widths.back())) {
  if (options.mid_attends) {
    attention.emplace(reader, name + ".attentions.0", options.widths.back(), options.groups);
  }
}

at::Tensor VaeMidBlock::operator()(const at::Tensor& x) const {
  const at::Tensor h = first(x);
  return second(attention ? (*attention)(h) : h);
}

VaeLevel::VaeLevel(ParameterReader& reader, const std::string& name, int64_t in, int64_t out,
                   int64_t layers, bool attends, const VaeNetworkOptions& options) {
  for (int64_t i = 0; i < layers; ++i) {
    resnets.emplace_back(reader, Indexed(name + ".resnets", i),
                         Resnet(options, i == 0 ? in : out, out));
    if (attends) {
      attentions.emplace_back(reader, Indexed(name + ".attentions", i), out, options.groups);
    }
  }
}

at::Tensor VaeLevel::operator()(at::Tensor x) const {
  for (size_t i = 0; i < resnets.size(); ++i) {
    x = resnets[i](x);
    if (!attentions.empty()) x = attentions[i](x);
  }
  return x;
}

VaeEncoder::VaeEncoder(ParameterReader& reader, const VaeNetworkOptions& o)
    : conv_in(reader, "encoder.conv_in", o.in_channels, o.widths.front(), 3, 1, 1),
      mid(reader, "encoder.mid_block", o),
      norm_out(reader, "encoder.conv_norm_out", o.groups, o.widths.back(), kNormEps),
      conv_out(reader, "encoder.conv_out", o.widths.back(), o.out_channels, 3, 1, 1) {
  for (size_t i = 0; i < o.widths.size(); ++i) {
    const std::string name = Indexed("encoder.down_blocks", static_cast<int64_t>(i));
    levels.emplace_back(reader, name, o.widths[i == 0 ? 0 : i - 1], o.widths[i], o.layers,
                        o.attends[i], o);
    if (i + 1 < o.widths.size()) {
      downsamples.emplace_back(reader, name + ".downsamplers.0", o.widths[i], /*padding=*/0);
    }
  }
}

at::Tensor VaeEncoder::operator()(at::Tensor x) const {
  x = conv_in(x);
  for (size_t i = 0; i < levels.size(); ++i) {
    x = levels[i](x);
    if (i < downsamples.size()) x = downsamples[i](x);
  }
  return conv_out(norm_out.Activated(Activation::kSilu, mid(x)));
}

VaeDecoder::VaeDecoder(ParameterReader& reader, const VaeNetworkOptions& o)
    : conv_in(reader, "decoder.conv_in", o.in_channels, o.widths.back(), 3, 1, 1),
      mid(reader, "decoder.mid_block", o),
      norm_out(reader, "decoder.conv_norm_out", o.groups, o.widths.front(), kNormEps),
      conv_out(reader, "decoder.conv_out", o.widths.front(), o.out_channels, 3, 1, 1) {
  int64_t in = o.widths.back();
  for (size_t i = 0; i < o.widths.size(); ++i) {
    const std::string name = Indexed("decoder.up_blocks", static_cast<int64_t>(i));
    const int64_t out = o.widths[o.widths.size() - 1 - i];
    levels.emplace_back(reader, name, in, out, o.layers + 1, o.attends[i], o);
    if (i + 1 < o.widths.size()) upsamples.emplace_back(reader, name + ".upsamplers.0", out);
    in = out;
  }
}

at::Tensor VaeDecoder::operator()(at::Tensor x) const {
  x = mid(conv_in(x));
  for (size_t i = 0; i < levels.size(); ++i) {
    x = levels[i](x);
    if (i < upsamples.size()) x = upsamples[i](x, 2 * x.size(2), 2 * x.size(3));
  }
  return conv_out(norm_out.Activated(Activation::kSilu, x));
}

}  // namespace d2g::model

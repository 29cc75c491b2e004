#include "model/network/attention.h"

#include "model/files/error.h"
#include "model/kernels/channels_last.h"

namespace d2g::model {

namespace {

int64_t CheckedHeadDim(const std::string& name, const TransformerOptions& options) {
  if (options.heads < 1 || options.channels / options.heads < 1) {
    Fail(name, ": ", options.channels, " channels cannot be split into ", options.heads, " heads");
  }
  return options.channels / options.heads;
}

}  // namespace

at::Tensor SplitHeads(const at::Tensor& x, int64_t heads) {
  return x.view({x.size(0), x.size(1), heads, x.size(2) / heads}).transpose(1, 2);
}

at::Tensor MergeHeads(const at::Tensor& x) {
  return x.transpose(1, 2).reshape({x.size(0), x.size(2), x.size(1) * x.size(3)});
}

at::Tensor ToTokens(const at::Tensor& picture) {
  return IsChannelsLast(picture) ? picture.permute({0, 2, 3, 1}).flatten(1, 2)
                                 : picture.flatten(2).transpose(1, 2);
}

at::Tensor ToPicture(const at::Tensor& tokens, const at::Tensor& like) {
  const int64_t batch = like.size(0), height = like.size(2), width = like.size(3);
  if (IsChannelsLast(like)) return tokens.view({batch, height, width, -1}).permute({0, 3, 1, 2});
  return tokens.transpose(1, 2).reshape({batch, -1, height, width});
}

Attention::Attention(ParameterReader& reader, const std::string& name, int64_t width,
                     int64_t context_width, int64_t heads_, int64_t head_dim, bool upcast_)
    : to_q(reader, name + ".to_q", width, heads_ * head_dim, /*has_bias=*/false),
      to_k(reader, name + ".to_k", context_width, heads_ * head_dim, /*has_bias=*/false),
      to_v(reader, name + ".to_v", context_width, heads_ * head_dim, /*has_bias=*/false),
      to_out(reader, name + ".to_out.0", heads_ * head_dim, width),
      heads(heads_),
      upcast(upcast_) {}

at::Tensor Attention::Attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                             const at::Tensor& added) const {
  return to_out(MergeHeads(kernels::Attention(q, k, v, {}, /*fp32_scores=*/upcast)), added);
}

at::Tensor Attention::SelfAttend(const at::Tensor& x, const at::Tensor& added) const {
  return Attend(SplitHeads(to_q(x), heads), SplitHeads(to_k(x), heads), SplitHeads(to_v(x), heads),
                added);
}

at::Tensor Attention::CrossAttend(const at::Tensor& x, const KeyValue& context,
                                  const at::Tensor& added) const {
  return Attend(SplitHeads(to_q(x), heads), context.key, context.value, added);
}

KeyValue Attention::MakeKeyValue(const at::Tensor& context) const {
  return {SplitHeads(to_k(context), heads), SplitHeads(to_v(context), heads)};
}

TransformerLayer::TransformerLayer(ParameterReader& reader, const std::string& name, int64_t width,
                                   int64_t head_dim, const TransformerOptions& o)
    : norm1(reader, name + ".norm1", width),
      attn1(reader, name + ".attn1", width, o.only_cross_attention ? o.context_width : width,
            o.heads, head_dim, o.upcast),
      norm2(reader, name + ".norm2", width),
      attn2(reader, name + ".attn2", width, o.context_width, o.heads, head_dim, o.upcast),
      norm3(reader, name + ".norm3", width),
      ff_in(reader, name + ".ff.net.0.proj", width, 8 * width),
      ff_out(reader, name + ".ff.net.2", 4 * width, width),
      only_cross_attention(o.only_cross_attention) {}

at::Tensor TransformerLayer::operator()(const at::Tensor& x, const KeyValue* text) const {
  const at::Tensor normed = norm1(x);
  at::Tensor h =
      only_cross_attention ? attn1.CrossAttend(normed, *text++, x) : attn1.SelfAttend(normed, x);
  h = attn2.CrossAttend(norm2(h), *text, h);
  return ff_out(kernels::Geglu(ff_in(norm3(h))), h);
}

SpatialTransformer::SpatialTransformer(ParameterReader& reader, const std::string& name,
                                       const TransformerOptions& o)
    : norm(reader, name + ".norm", o.norm_groups, o.channels, 1e-6) {
  const int64_t head_dim = CheckedHeadDim(name, o);
  const int64_t width = o.heads * head_dim;
  auto projection = [&](const std::string& which, int64_t in, int64_t out) {
    return o.linear_projection ? Linear(reader, name + which, in, out)
                               : Linear::FromConv1x1(reader, name + which, in, out);
  };
  proj_in = projection(".proj_in", o.channels, width);
  for (int64_t i = 0; i < o.depth; ++i) {
    layers.emplace_back(reader, name + ".transformer_blocks." + std::to_string(i), width, head_dim,
                        o);
  }
  proj_out = projection(".proj_out", width, o.channels);
}

at::Tensor SpatialTransformer::Transform(const at::Tensor& tokens, const KeyValue* text) const {
  at::Tensor h = proj_in(tokens);
  for (const TransformerLayer& layer : layers) {
    h = layer(h, text);
    text += layer.text_entries();
  }
  return h;
}

at::Tensor SpatialTransformer::operator()(const at::Tensor& x, const KeyValue* text) const {
  const at::Tensor h = Transform(ToTokens(norm(x)), text);
  if (IsChannelsLast(x)) return ToPicture(proj_out(h, ToTokens(x)), x);
  return x + ToPicture(proj_out(h), x);
}

void SpatialTransformer::MakeKeyValues(const at::Tensor& context,
                                       std::vector<KeyValue>& out) const {
  for (const TransformerLayer& layer : layers) {
    if (layer.only_cross_attention) out.push_back(layer.attn1.MakeKeyValue(context));
    out.push_back(layer.attn2.MakeKeyValue(context));
  }
}

size_t SpatialTransformer::text_entries() const {
  return layers.empty() ? 0 : layers.size() * layers.front().text_entries();
}

}  // namespace d2g::model

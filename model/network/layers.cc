#include "model/network/layers.h"

#include <ATen/core/grad_mode.h>

#include "model/files/error.h"

namespace d2g::model {

at::Tensor Activate(Activation activation, const at::Tensor& x) {
  switch (activation) {
    case Activation::kSilu:
      return at::silu(x);
    case Activation::kGelu:
      return at::gelu(x);
    case Activation::kQuickGelu:
      return x * at::sigmoid(x * 1.702);
    case Activation::kRelu:
      return at::relu(x);
    case Activation::kMish:
      return at::mish(x);
  }
  Fail("unknown activation");
}

Linear::Linear(ParameterReader& reader, const std::string& name, int64_t in, int64_t out,
               bool has_bias)
    : LayerWeight(reader.TakeLayer(name, {out, in}, has_bias)) {}

Linear Linear::FromConv1x1(ParameterReader& reader, const std::string& name, int64_t in,
                           int64_t out) {
  Linear linear;
  static_cast<LayerWeight&>(linear) = reader.TakeLayer(name, {out, in, 1, 1});
  return linear;
}

at::Tensor Linear::operator()(const at::Tensor& x, const at::Tensor& added) const {
  return kernels::Linear(x, *this, added);
}

Conv2d::Conv2d(ParameterReader& reader, const std::string& name, int64_t in, int64_t out,
               int64_t kernel, int64_t stride_, int64_t padding_, bool has_bias)
    : LayerWeight(reader.TakeLayer(name, {out, in, kernel, kernel}, has_bias)),
      stride(stride_),
      padding(padding_) {}

at::Tensor Conv2d::operator()(const at::Tensor& x, const at::Tensor& added) const {
  return kernels::Conv(x, *this, {.stride = stride, .padding = padding}, added);
}

GroupNorm::GroupNorm(ParameterReader& reader, const std::string& name, int64_t groups_,
                     int64_t channels, double eps_)
    : NormWeight{reader.Take(name + ".weight", {channels}), reader.Take(name + ".bias", {channels}),
                 eps_},
      groups(groups_) {
  if (groups < 1 || channels % groups != 0) {
    Fail(name, ": ", channels, " channels cannot be split into ", groups, " norm groups");
  }
}

at::Tensor GroupNorm::operator()(const at::Tensor& x) const {
  return kernels::GroupNorm(x, groups, *this);
}

at::Tensor GroupNorm::Activated(Activation activation, const at::Tensor& x,
                                const at::Tensor& shift) const {
  const bool silu = activation == Activation::kSilu;
  const at::Tensor normed = kernels::GroupNorm(x, groups, *this, shift, silu);
  return silu ? normed : Activate(activation, normed);
}

LayerNorm::LayerNorm(ParameterReader& reader, const std::string& name, int64_t width, double eps_)
    : NormWeight{reader.Take(name + ".weight", {width}), reader.Take(name + ".bias", {width}),
                 eps_} {}

at::Tensor LayerNorm::operator()(const at::Tensor& x) const { return kernels::LayerNorm(x, *this); }

Downsample::Downsample(ParameterReader& reader, const std::string& name, int64_t channels,
                       int64_t padding)
    : conv(reader, name + ".conv", channels, channels, 3, 2, padding) {}

at::Tensor Downsample::operator()(const at::Tensor& x) const {
  return kernels::Conv(
      x, conv,
      {.stride = conv.stride, .padding = conv.padding, .padding_behind = conv.padding == 0});
}

Upsample::Upsample(ParameterReader& reader, const std::string& name, int64_t channels)
    : conv(reader, name + ".conv", channels, channels, 3, 1, 1) {}

at::Tensor Upsample::operator()(const at::Tensor& x, int64_t height, int64_t width) const {
  return kernels::Conv(
      x, conv,
      {.stride = conv.stride, .padding = conv.padding, .up_height = height, .up_width = width});
}

}  // namespace d2g::model

#include "model/network/layers.h"

#include <ATen/core/grad_mode.h>

#include "model/files/error.h"
#include "model/kernels/cpu_kernels.h"
#include "model/kernels/cuda_kernels.h"
#include "model/kernels/onednn_linear.h"

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

namespace {

// y + added; y, which nothing else holds, is overwritten where no gradient needs it.
at::Tensor Plus(at::Tensor y, const at::Tensor& added) {
  if (!added.defined()) return y;
  return at::GradMode::is_enabled() ? added + y : y.add_(added);
}

}  // namespace

at::Tensor ApplyLinear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  if (UseOneDnnLinear(x)) return OneDnnLinear(x, weight, bias);
  return at::linear(x, weight, bias.defined() ? std::optional(bias) : std::nullopt);
}

Linear::Linear(ParameterReader& reader, const std::string& name, int64_t in, int64_t out,
               bool has_bias)
    : weight(reader.Take(name + ".weight", {out, in})) {
  if (has_bias) bias = reader.Take(name + ".bias", {out});
  packed = reader.MakePacked(weight, bias);
}

Linear Linear::FromConv1x1(ParameterReader& reader, const std::string& name, int64_t in,
                           int64_t out) {
  Linear linear;
  linear.weight = reader.Take(name + ".weight", {out, in, 1, 1});
  linear.bias = reader.Take(name + ".bias", {out});
  linear.packed = reader.MakePacked(linear.weight, linear.bias);
  return linear;
}

at::Tensor Linear::operator()(const at::Tensor& x, const at::Tensor& added) const {
  if (packed && packed->Takes(x)) return packed->Linear(x, added);
  return Plus(ApplyLinear(x, weight.dim() == 4 ? weight.flatten(1) : weight, bias), added);
}

Conv2d::Conv2d(ParameterReader& reader, const std::string& name, int64_t in, int64_t out,
               int64_t kernel, int64_t stride_, int64_t padding_)
    : weight(reader.Take(name + ".weight", {out, in, kernel, kernel})),
      bias(reader.Take(name + ".bias", {out})),
      packed(reader.MakePacked(weight, bias)),
      stride(stride_),
      padding(padding_) {}

at::Tensor Conv2d::operator()(const at::Tensor& x, const at::Tensor& added) const {
  if (packed && packed->Takes(x)) {
    const int64_t kernel = packed->kernel();
    auto size = [&](int64_t from) { return (from + 2 * padding - kernel) / stride + 1; };
    return packed->Convolve(x, {stride, padding, size(x.size(2)), size(x.size(3))}, added);
  }
  return Plus(at::conv2d(x, weight, bias, {stride, stride}, at::IntArrayRef{padding, padding}),
              added);
}

GroupNorm::GroupNorm(ParameterReader& reader, const std::string& name, int64_t groups_,
                     int64_t channels, double eps_)
    : weight(reader.Take(name + ".weight", {channels})),
      bias(reader.Take(name + ".bias", {channels})),
      groups(groups_),
      eps(eps_) {
  if (groups < 1 || channels % groups != 0) {
    Fail(name, ": ", channels, " channels cannot be split into ", groups, " norm groups");
  }
}

namespace {

// By one of our kernels; undefined if none of them takes x.
at::Tensor Fused(const GroupNorm& norm, const at::Tensor& x, const at::Tensor& shift, bool silu) {
  if (UseCpuKernels(x)) {
    return FusedGroupNorm(x, norm.groups, norm.weight, norm.bias, norm.eps, shift, silu);
  }
  if (UseCudaKernels(x, norm.groups)) {
    return FusedCudaGroupNorm(x, norm.groups, norm.weight, norm.bias, norm.eps, shift, silu);
  }
  return {};
}

}  // namespace

at::Tensor GroupNorm::operator()(const at::Tensor& x) const {
  const at::Tensor fused = Fused(*this, x, {}, /*silu=*/false);
  return fused.defined() ? fused : at::group_norm(x, groups, weight, bias, eps);
}

at::Tensor GroupNorm::Activated(Activation activation, const at::Tensor& x,
                                const at::Tensor& shift) const {
  const bool silu = activation == Activation::kSilu;
  const at::Tensor fused = Fused(*this, x, shift, silu);
  if (fused.defined()) return silu ? fused : Activate(activation, fused);
  const at::Tensor shifted = shift.defined() ? x + shift.unsqueeze(-1).unsqueeze(-1) : x;
  return Activate(activation, at::group_norm(shifted, groups, weight, bias, eps));
}

LayerNorm::LayerNorm(ParameterReader& reader, const std::string& name, int64_t width, double eps_)
    : weight(reader.Take(name + ".weight", {width})),
      bias(reader.Take(name + ".bias", {width})),
      eps(eps_) {}

at::Tensor LayerNorm::operator()(const at::Tensor& x) const {
  if (UseCpuKernels(x)) return FusedLayerNorm(x, weight, bias, eps);
  return at::layer_norm(x, {x.size(-1)}, weight, bias, eps);
}

at::Tensor ConcatChannels(const at::Tensor& x, const at::Tensor& y) {
  if (UseCpuKernels(x) && IsChannelsLast(x) && IsChannelsLast(y)) return JoinChannels(x, y);
  return at::cat({x, y}, 1);
}

Downsample::Downsample(ParameterReader& reader, const std::string& name, int64_t channels,
                       int64_t padding)
    : conv(reader, name + ".conv", channels, channels, 3, 2, padding) {}

at::Tensor Downsample::operator()(const at::Tensor& x) const {
  if (conv.padding == 0 && conv.packed && conv.packed->Takes(x)) {
    return conv.packed->Convolve(x, {2, 0, x.size(2) / 2, x.size(3) / 2}, {});
  }
  return conv(conv.padding == 0 ? at::constant_pad_nd(x, {0, 1, 0, 1}) : x);
}

Upsample::Upsample(ParameterReader& reader, const std::string& name, int64_t channels)
    : conv(reader, name + ".conv", channels, channels, 3, 1, 1) {}

at::Tensor Upsample::operator()(const at::Tensor& x, int64_t height, int64_t width) const {
  if (conv.packed && conv.packed->Takes(x)) {
    return conv.packed->Convolve(x, {1, 1, height, width, height, width}, {});
  }
  return conv(at::upsample_nearest2d(x, at::IntArrayRef{height, width}));
}

}  // namespace d2g::model

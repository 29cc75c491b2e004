#include "model/kernels/operators.h"

#include <cmath>
#include <optional>
#include <vector>

#include "model/kernels/channels_last.h"
#include "model/kernels/cpu_kernels.h"
#include "model/kernels/cuda_kernels.h"
#include "model/kernels/onednn_linear.h"
#include "model/kernels/operator_forms.h"

namespace d2g::model::kernels {

namespace {

// From here on the fused kernel beats three small products on a CPU (measured on one core). On a
// GPU it always does: launches count.
constexpr int64_t kFusedAttentionScores = 128 * 128;
// LibTorch 2.11's fused attention of a CPU answers a query that is not a number with zeros where
// there are fewer keys than a vector has lanes, and so would hide a network that diverges.
constexpr int64_t kFewestFusedKeys = 16;

bool UseFusedAttention(const at::Tensor& q, const at::Tensor& k) {
  if (at::GradMode::is_enabled()) return false;
  return q.is_cuda() ||
         (k.size(-2) >= kFewestFusedKeys && q.size(-2) * k.size(-2) >= kFusedAttentionScores);
}

std::optional<at::Tensor> IfDefined(const at::Tensor& x) {
  return x.defined() ? std::optional(x) : std::nullopt;
}

// y + added; y, which nothing else holds, is overwritten where no gradient needs it.
at::Tensor Plus(at::Tensor y, const at::Tensor& added) {
  if (!added.defined()) return y;
  return at::GradMode::is_enabled() ? added + y : y.add_(added);
}

bool UsePacked(const LayerWeight& weight, const at::Tensor& x) {
  return weight.packed && weight.packed->Takes(x);
}

PackedWeight::Window WindowOf(const at::Tensor& x, int64_t kernel, const ConvShape& shape) {
  const bool enlarged = shape.up_height != 0;
  auto size = [&](int64_t from) {
    return (from + 2 * shape.padding + (shape.padding_behind ? 1 : 0) - kernel) / shape.stride + 1;
  };
  return {.step = shape.stride,
          .padding = shape.padding,
          .out_height = size(enlarged ? shape.up_height : x.size(2)),
          .out_width = size(enlarged ? shape.up_width : x.size(3)),
          .up_height = shape.up_height,
          .up_width = shape.up_width};
}

at::Tensor ChosenLinear(const at::Tensor& x, const LayerWeight& weight, const at::Tensor& added) {
  if (UsePacked(weight, x)) return weight.packed->Linear(x, added);
  const at::Tensor matrix = weight.weight.dim() == 4 ? weight.weight.flatten(1) : weight.weight;
  return Plus(UseOneDnnLinear(x) ? OneDnnLinear(x, matrix, weight.bias)
                                 : at::linear(x, matrix, IfDefined(weight.bias)),
              added);
}

at::Tensor ChosenConv(const at::Tensor& x, const LayerWeight& weight, const ConvShape& shape,
                      const at::Tensor& added) {
  if (UsePacked(weight, x)) {
    return weight.packed->Convolve(x, WindowOf(x, weight.packed->kernel(), shape), added);
  }
  at::Tensor in = x;
  if (shape.up_height != 0) {
    in = at::upsample_nearest2d(in, at::IntArrayRef{shape.up_height, shape.up_width});
  }
  if (shape.padding_behind) in = at::constant_pad_nd(in, {0, 1, 0, 1});
  return Plus(at::conv2d(in, weight.weight, IfDefined(weight.bias), {shape.stride, shape.stride},
                         at::IntArrayRef{shape.padding, shape.padding}),
              added);
}

at::Tensor ChosenGroupNorm(const at::Tensor& x, int64_t groups, const NormWeight& norm,
                           const at::Tensor& shift, bool silu) {
  if (UseCpuKernels(x)) {
    return FusedGroupNorm(x, groups, norm.weight, norm.bias, norm.eps, shift, silu);
  }
  if (UseCudaKernels(x, groups)) {
    return FusedCudaGroupNorm(x, groups, norm.weight, norm.bias, norm.eps, shift, silu);
  }
  const at::Tensor shifted = shift.defined() ? x + shift.unsqueeze(-1).unsqueeze(-1) : x;
  const at::Tensor y = at::group_norm(shifted, groups, norm.weight, norm.bias, norm.eps);
  return silu ? at::silu(y) : y;
}

at::Tensor ChosenLayerNorm(const at::Tensor& x, const NormWeight& norm) {
  if (UseCpuKernels(x)) return FusedLayerNorm(x, norm.weight, norm.bias, norm.eps);
  return at::layer_norm(x, {x.size(-1)}, norm.weight, norm.bias, norm.eps);
}

at::Tensor ChosenGeglu(const at::Tensor& x) {
  if (UseCpuKernels(x)) return FusedGeglu(x);
  const std::vector<at::Tensor> halves = x.chunk(2, -1);
  return halves[0] * at::gelu(halves[1]);
}

at::Tensor ChosenAttention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                           const at::Tensor& mask) {
  const bool one_mask =
      mask.defined() && mask.dim() == 2 && mask.size(0) == q.size(2) && mask.size(1) == k.size(2);
  if (UseCpuKernels(q) && q.dim() == 4 && (!mask.defined() || one_mask)) {
    const at::Tensor merged = FusedAttention(q, k, v, mask);
    return merged.view({q.size(0), q.size(2), q.size(1), q.size(3)}).transpose(1, 2);
  }
  if (UseFusedAttention(q, k)) return at::scaled_dot_product_attention(q, k, v, IfDefined(mask));
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(-1)));
  at::Tensor scores = at::matmul(q * scale, k.transpose(-2, -1));
  if (mask.defined()) scores = scores + mask;
  return at::matmul(at::softmax(scores, -1), v);
}

constexpr Forms kProductForms{ChosenLinear,    ChosenConv,  ChosenGroupNorm,
                              ChosenLayerNorm, ChosenGeglu, ChosenAttention};
Forms forms = kProductForms;

}  // namespace

const Forms& ProductForms() { return kProductForms; }
void UseForms(const Forms& others) { forms = others; }

at::Tensor Linear(const at::Tensor& x, const LayerWeight& weight, const at::Tensor& added) {
  return forms.linear(x, weight, added);
}

at::Tensor Conv(const at::Tensor& x, const LayerWeight& weight, const ConvShape& shape,
                const at::Tensor& added) {
  return forms.conv(x, weight, shape, added);
}

at::Tensor GroupNorm(const at::Tensor& x, int64_t groups, const NormWeight& norm,
                     const at::Tensor& shift, bool silu) {
  return forms.group_norm(x, groups, norm, shift, silu);
}

at::Tensor LayerNorm(const at::Tensor& x, const NormWeight& norm) {
  return forms.layer_norm(x, norm);
}

at::Tensor Geglu(const at::Tensor& x) { return forms.geglu(x); }

at::Tensor Attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const at::Tensor& mask, bool fp32_scores) {
  // The fused kernels of GPUs keep scores in fp32 by themselves.
  const bool fused = q.is_cuda() && !at::GradMode::is_enabled();
  if (!fp32_scores || fused || q.scalar_type() == at::kFloat || q.scalar_type() == at::kDouble) {
    return forms.attention(q, k, v, mask);
  }
  return forms.attention(q.to(at::kFloat), k.to(at::kFloat), v.to(at::kFloat), mask)
      .to(q.scalar_type());
}

at::Tensor ConcatChannels(const at::Tensor& x, const at::Tensor& y) {
  if (UseCpuKernels(x) && IsChannelsLast(x) && IsChannelsLast(y)) return JoinChannels(x, y);
  return at::cat({x, y}, 1);
}

}  // namespace d2g::model::kernels

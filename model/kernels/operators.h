// What a network asks of the machine: each operator once, by the quickest form that takes the
// input. A network names no form, so that what lies below can be exchanged.
//
// With gradients off, fp32 on the CPU goes through loops of our own (cpu_kernels.h) and, where a
// weight was packed, through its packed form (packed_weight.h); results that are pictures are then
// channels last in memory. A group norm on a GPU has a fused kernel (cuda_kernels.h). Everything
// else is LibTorch's operators, fp32 products on the CPU through oneDNN (onednn_linear.h). All are
// thread-safe and, with gradients on, differentiable twice.
#pragma once

#include <cstdint>
#include <memory>

#include <ATen/ATen.h>

#include "model/kernels/packed_weight.h"

namespace d2g::model::kernels {

// The weight of a product or convolution with all that its forms need. Handles: copies share them.
struct LayerWeight {
  at::Tensor weight;                     // [out, in] or [out, in, kernel, kernel]
  at::Tensor bias;                       // [out] or undefined
  std::shared_ptr<PackedWeight> packed;  // of both, or null
};

// x [..., in] -> [..., out], plus `added` of that shape unless undefined. The weight may be that of
// a 1x1 convolution.
at::Tensor Linear(const at::Tensor& x, const LayerWeight& weight, const at::Tensor& added = {});

struct ConvShape {
  int64_t stride = 1;
  int64_t padding = 0;          // zeros on each side
  bool padding_behind = false;  // one row and column of zeros more, at the bottom and right
  // Unless 0: x is enlarged to this size first, by repeating the nearest point.
  int64_t up_height = 0, up_width = 0;
};

// x [B, in, H, W] -> [B, out, H', W'], plus `added` of that shape unless undefined.
at::Tensor Conv(const at::Tensor& x, const LayerWeight& weight, const ConvShape& shape,
                const at::Tensor& added = {});

struct NormWeight {
  at::Tensor weight, bias;  // [channels]
  double eps = 1e-5;
};

// group_norm(x + shift), then silu if asked for. x [B, channels, ...]; shift [1 or B, channels], of
// a picture, or undefined.
at::Tensor GroupNorm(const at::Tensor& x, int64_t groups, const NormWeight& norm,
                     const at::Tensor& shift = {}, bool silu = false);

// Over the last dimension.
at::Tensor LayerNorm(const at::Tensor& x, const NormWeight& norm);

// The first half of the last dimension times gelu of the second. x [..., 2 * n] -> [..., n].
at::Tensor Geglu(const at::Tensor& x);

// softmax(q k^T / sqrt(d) + mask) v. q [B, heads, Lq, d], k and v [B, heads, Lk, d], mask
// broadcastable to [B, heads, Lq, Lk] or undefined. Returns [B, heads, Lq, d]. With gradients on it
// is the explicit matrix form, the only one that can be differentiated twice. `fp32_scores` keeps
// the scores of half precision in fp32.
at::Tensor Attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const at::Tensor& mask = {}, bool fp32_scores = false);

// [x; y] along the channels of pictures, whatever their place in memory.
at::Tensor ConcatChannels(const at::Tensor& x, const at::Tensor& y);

}  // namespace d2g::model::kernels

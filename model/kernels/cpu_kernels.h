// Fused CPU kernels for inference: what LibTorch does in several passes over memory, done in one.
//
// Each takes fp32 CPU tensors without gradient and agrees with its ATen counterpart within float
// error. UseCpuKernels says whether a tensor qualifies; callers fall back to ATen otherwise.
#pragma once

#include <ATen/ATen.h>

namespace d2g::model {

// Gradients are off and x is fp32 on the CPU.
bool UseCpuKernels(const at::Tensor& x);

// silu(group_norm(x + shift)) or, without `silu`, the norm alone. x [B, C, ...]; weight and bias
// [C]; shift [1, C] or [B, C], or undefined for none. The result lies in memory as x does.
at::Tensor FusedGroupNorm(const at::Tensor& x, int64_t groups, const at::Tensor& weight,
                          const at::Tensor& bias, double eps, const at::Tensor& shift, bool silu);

// layer_norm over the last dimension; weight and bias may be undefined.
at::Tensor FusedLayerNorm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                          double eps);

// [x; y] along the channels of two pictures that are channels last.
at::Tensor JoinChannels(const at::Tensor& x, const at::Tensor& y);

// The first half of the last dimension times gelu of the second. x [..., 2 * n] -> [..., n]. The
// error function is Abramowitz and Stegun 7.1.26: absolute error below 2e-7.
at::Tensor FusedGeglu(const at::Tensor& x);

// softmax(q k^T / sqrt(d) + mask) v, merged over heads. q [B, heads, Lq, d], k and v [B, heads, Lk,
// d]; mask [Lq, Lk] or undefined. Returns [B, Lq, heads * d].
at::Tensor FusedAttention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          const at::Tensor& mask = {});

}  // namespace d2g::model

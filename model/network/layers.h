// The elementary layers of all networks: parameters and a call operator over ATen.
//
// Plain structs; the tensors are handles shared with the network's parameter map. Calls are const,
// thread-safe and differentiable twice. What computes them is decided below (kernels/operators.h).
#pragma once

#include <cstdint>
#include <string>

#include <ATen/ATen.h>

#include "model/config/activation.h"
#include "model/kernels/operators.h"
#include "model/network/parameters.h"

namespace d2g::model {

at::Tensor Activate(Activation activation, const at::Tensor& x);

struct Linear : kernels::LayerWeight {
  Linear() = default;
  Linear(ParameterReader& reader, const std::string& name, int64_t in, int64_t out,
         bool has_bias = true);
  // Same, with the weight stored as a 1x1 convolution [out, in, 1, 1].
  static Linear FromConv1x1(ParameterReader& reader, const std::string& name, int64_t in,
                            int64_t out);

  // x [..., in] -> [..., out], plus `added` of that shape unless undefined.
  at::Tensor operator()(const at::Tensor& x, const at::Tensor& added = {}) const;
};

struct Conv2d : kernels::LayerWeight {
  Conv2d() = default;
  Conv2d(ParameterReader& reader, const std::string& name, int64_t in, int64_t out, int64_t kernel,
         int64_t stride = 1, int64_t padding = 0, bool has_bias = true);

  // x [B, in, H, W] -> [B, out, H', W'], plus `added` of that shape unless undefined.
  at::Tensor operator()(const at::Tensor& x, const at::Tensor& added = {}) const;

  int64_t stride = 1;
  int64_t padding = 0;
};

struct GroupNorm : kernels::NormWeight {
  GroupNorm() = default;
  // Throws Error unless groups divides channels.
  GroupNorm(ParameterReader& reader, const std::string& name, int64_t groups, int64_t channels,
            double eps);

  // x [B, channels, ...].
  at::Tensor operator()(const at::Tensor& x) const;
  // activation(norm(x + shift)); shift [1 or B, channels] or undefined.
  at::Tensor Activated(Activation activation, const at::Tensor& x,
                       const at::Tensor& shift = {}) const;

  int64_t groups = 1;
};

struct LayerNorm : kernels::NormWeight {
  LayerNorm() = default;
  LayerNorm(ParameterReader& reader, const std::string& name, int64_t width, double eps = 1e-5);

  // Over the last dimension.
  at::Tensor operator()(const at::Tensor& x) const;
};

// Stride-2 3x3 convolution, named `name`.conv. padding 0 means one row and column of zeros at the
// right and bottom only.
struct Downsample {
  Downsample() = default;
  Downsample(ParameterReader& reader, const std::string& name, int64_t channels, int64_t padding);
  at::Tensor operator()(const at::Tensor& x) const;
  Conv2d conv;
};

// Nearest interpolation to (height, width), then a 3x3 convolution named `name`.conv.
struct Upsample {
  Upsample() = default;
  Upsample(ParameterReader& reader, const std::string& name, int64_t channels);
  at::Tensor operator()(const at::Tensor& x, int64_t height, int64_t width) const;
  Conv2d conv;
};

}  // namespace d2g::model

// diffusers' ResnetBlock2D: norm, activation, convolution, twice, with a shortcut.
#pragma once

#include <string>

#include "model/network/layers.h"

namespace d2g::model {

// x [n, ...] repeated to [rows, ...]; x itself when it has them.
at::Tensor Repeated(const at::Tensor& x, int64_t rows);

struct ResnetOptions {
  int64_t in_channels = 0;
  int64_t out_channels = 0;
  int64_t time_width = 0;  // 0: no time embedding
  int64_t groups = 32;
  double eps = 1e-6;
  Activation activation = Activation::kSilu;
  bool scale_shift = false;  // the time embedding scales and shifts the second norm
  double output_scale = 1;   // the sum is divided by it
};

struct ResnetBlock {
  ResnetBlock(ParameterReader& reader, const std::string& name, const ResnetOptions& options);

  // x [B, in_channels, H, W]; time [1, B or k * B, time_width], already activated, or undefined.
  // Returns [B, out_channels, H, W]; with k * B rows of time, that of x repeated k times.
  at::Tensor operator()(const at::Tensor& x, const at::Tensor& time = {}) const;

  GroupNorm norm1;
  Conv2d conv1;
  Linear time_emb_proj;
  GroupNorm norm2;
  Conv2d conv2;
  Conv2d conv_shortcut;  // weight undefined when the channels do not change
  bool has_shortcut = false;
  ResnetOptions options;
};

}  // namespace d2g::model

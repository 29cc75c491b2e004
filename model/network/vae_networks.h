// The encoder and decoder of AutoencoderKL.
// Source: diffusers 0.35.2, models/autoencoders/vae.py and models/unets/unet_2d_blocks.py.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "model/network/resnet_block.h"

namespace d2g::model {

struct VaeNetworkOptions {
  int64_t in_channels = 3;      // of the picture (encoder) or the latents (decoder)
  int64_t out_channels = 3;     // of the moments (encoder) or the picture (decoder)
  std::vector<int64_t> widths;  // channels of each level, largest pictures first
  std::vector<bool> attends;    // for each level in the order it runs: attention after each resnet
  int64_t layers = 1;           // resnets of a level; the decoder's levels have one more
  int64_t groups = 32;
  Activation activation = Activation::kSilu;
  bool mid_attends = true;
};

// One attention head over all positions, with norm, biases and residual. Parameters: group_norm,
// to_q, to_k, to_v, to_out.0.
struct VaeAttention {
  VaeAttention(ParameterReader& reader, const std::string& name, int64_t channels, int64_t groups);
  // x [B, channels, H, W] -> the same shape.
  at::Tensor operator()(const at::Tensor& x) const;

  GroupNorm norm;
  Linear q, k, v, out;
};

// diffusers' UNetMidBlock2D without time: resnet, attention or nothing, resnet.
struct VaeMidBlock {
  VaeMidBlock(ParameterReader& reader, const std::string& name, const VaeNetworkOptions& options);
  at::Tensor operator()(const at::Tensor& x) const;

  ResnetBlock first, second;
  std::optional<VaeAttention> attention;
};

// Resnets, each followed by attention where the level has it.
struct VaeLevel {
  VaeLevel(ParameterReader& reader, const std::string& name, int64_t in, int64_t out,
           int64_t layers, bool attends, const VaeNetworkOptions& options);
  at::Tensor operator()(at::Tensor x) const;

  std::vector<ResnetBlock> resnets;
  std::vector<VaeAttention> attentions;
};

// Pictures [B, in_channels, H, W], H and W at least 2^(levels - 1), to moments
// [B, out_channels, H', W']: each level but the last halves height and width, rounding down.
struct VaeEncoder {
  VaeEncoder(ParameterReader& reader, const VaeNetworkOptions& options);
  at::Tensor operator()(at::Tensor x) const;

  Conv2d conv_in;
  std::vector<VaeLevel> levels;
  std::vector<Downsample> downsamples;  // one for each level but the last
  VaeMidBlock mid;
  GroupNorm norm_out;
  Conv2d conv_out;
};

// Latents [B, in_channels, h, w] to pictures [B, out_channels, h * s, w * s], s = 2^(levels - 1).
struct VaeDecoder {
  VaeDecoder(ParameterReader& reader, const VaeNetworkOptions& options);
  at::Tensor operator()(at::Tensor x) const;

  Conv2d conv_in;
  VaeMidBlock mid;
  std::vector<VaeLevel> levels;
  std::vector<Upsample> upsamples;  // one for each level but the last
  GroupNorm norm_out;
  Conv2d conv_out;
};

}  // namespace d2g::model

// Running a convolutional network over overlapping tiles of a picture.
// Source: diffusers 0.35.2, models/autoencoders/{autoencoder_kl,autoencoder_tiny}.py.
#pragma once

#include <cstdint>
#include <functional>

#include <ATen/ATen.h>

namespace d2g::model {

// [B, C, H, W] to [B, C', H', W'].
using TileFunction = std::function<at::Tensor(const at::Tensor&)>;

// AutoencoderKL's way. A tile starts every `stride` rows and columns of the input and is `size`
// wide; the first `blend` rows and columns of an output are faded from its upper and left
// neighbours, and `keep` rows and columns of it are used.
struct BlendedTiles {
  int64_t size = 0;
  int64_t stride = 1;
  int64_t blend = 0;
  int64_t keep = 0;
};

// At most two rows of tiles are held beside the result. Gradients are off within.
at::Tensor RunBlendedTiles(const at::Tensor& x, const BlendedTiles& tiles, const TileFunction& run);

// AutoencoderTiny's way: each output is laid over what is there already, fading in over its first
// `blend` rows and columns.
struct OverlaidTiles {
  int64_t size = 0;  // of the input
  int64_t stride = 1;
  int64_t out_size = 0;
  int64_t out_stride = 1;
  int64_t blend = 2;  // at least 2
};

// The result is [B, channels, height, width]. Gradients are off within.
at::Tensor RunOverlaidTiles(const at::Tensor& x, const OverlaidTiles& tiles, int64_t channels,
                            int64_t height, int64_t width, const TileFunction& run);

}  // namespace d2g::model

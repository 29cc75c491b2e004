// The blocks of the U-Net: encoder levels, middle, decoder levels.
// Source: diffusers 0.35.2, models/unets/unet_2d_blocks.py.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "model/config/unet_config.h"
#include "model/network/attention.h"
#include "model/network/resnet_block.h"

namespace d2g::model {

// What every block of one forward pass reads. `text` walks over the cross attentions' keys and
// values in the order of the visit.
struct BlockContext {
  at::Tensor time;       // [1, B or batch, time width], activated
  const KeyValue* text;  // next entry
  int64_t batch;         // rows of the conditions, a multiple of the sample's
};

// A resnet block and, at levels with attention, the transformer after it.
struct UNetLayer {
  at::Tensor operator()(const at::Tensor& x, BlockContext& context) const;

  ResnetBlock resnet;
  std::optional<SpatialTransformer> attention;
};

struct DownBlock {
  DownBlock(ParameterReader& reader, const UNetConfig& config, size_t level);

  std::vector<UNetLayer> layers;
  std::optional<Downsample> downsample;
};

// A resnet block and, in UNetMidBlock2DCrossAttn, a transformer and a second resnet.
struct MidBlock {
  MidBlock(ParameterReader& reader, const UNetConfig& config);

  at::Tensor operator()(const at::Tensor& x, BlockContext& context) const;

  UNetLayer first;
  std::optional<ResnetBlock> second;
};

struct UpBlock {
  // `position` counts from the coarsest level.
  UpBlock(ParameterReader& reader, const UNetConfig& config, size_t position);

  std::vector<UNetLayer> layers;
  std::optional<Upsample> upsample;
};

}  // namespace d2g::model

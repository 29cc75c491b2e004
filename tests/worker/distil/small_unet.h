// A U-Net small enough for tests that train it.
#pragma once

#include <ATen/CPUGeneratorImpl.h>

#include "model/network/unet_2d_condition.h"
#include "model/weights/random_weights.h"

namespace d2g::distil {

inline model::UNetConfig SmallUNetConfig() {
  model::UNetConfig config;
  config.sample_size = 8;
  config.sample_width = 8;
  config.down_block_types = {"DownBlock2D", "CrossAttnDownBlock2D"};
  config.up_block_types = {"CrossAttnUpBlock2D", "UpBlock2D"};
  config.block_out_channels = {16, 32};
  config.layers_per_block = {1, 1};
  config.transformer_layers_per_block = {{1}, {1}};
  config.attention_heads = {2, 2};
  config.cross_attention_dim = {12, 12};
  config.norm_num_groups = 4;
  return config;
}

inline model::UNet2DConditionModel SmallUNet(uint64_t seed = 1) {
  const model::UNetConfig config = SmallUNetConfig();
  return model::UNet2DConditionModel(
      config, model::RandomParameters(seed, model::UNet2DConditionModel::ParameterShapes(config)));
}

// Standard normal numbers from a generator of their own.
inline at::Tensor Normal(at::IntArrayRef shape, uint64_t seed) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  return at::randn(shape, generator, at::TensorOptions().dtype(at::kFloat));
}

}  // namespace d2g::distil

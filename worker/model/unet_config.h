// The options of a UNet2DConditionModel that d2g supports.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace d2g::model {

// Defaults are those of diffusers 0.35.2. Lists have one entry per level (per down block).
struct UNetConfig {
  // Reads a diffusers config.json. Throws Error naming the option and its value for everything that
  // would change the result and is not supported.
  static UNetConfig FromFile(const std::string& path);
  static UNetConfig FromJson(const std::string& text, const std::string& source);

  int64_t levels() const { return static_cast<int64_t>(block_out_channels.size()); }
  int64_t time_embedding_width() const {
    return time_embedding_dim > 0 ? time_embedding_dim : 4 * block_out_channels.front();
  }

  int64_t sample_size = 0;  // latent height and width that the model was trained at; 0: not said
  int64_t sample_width = 0;
  int64_t in_channels = 4;
  int64_t out_channels = 4;
  bool center_input_sample = false;
  bool flip_sin_to_cos = true;
  double freq_shift = 0;
  std::vector<std::string> down_block_types = {"CrossAttnDownBlock2D", "CrossAttnDownBlock2D",
                                               "CrossAttnDownBlock2D", "DownBlock2D"};
  bool has_mid_block = true;
  std::vector<std::string> up_block_types = {"UpBlock2D", "CrossAttnUpBlock2D",
                                             "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"};
  std::vector<int64_t> block_out_channels = {320, 640, 1280, 1280};
  std::vector<int64_t> layers_per_block = {2, 2, 2, 2};
  std::vector<int64_t> transformer_layers_per_block = {1, 1, 1, 1};
  // Number of heads: diffusers calls it attention_head_dim in every Stable Diffusion model.
  std::vector<int64_t> attention_heads = {8, 8, 8, 8};
  std::vector<int64_t> cross_attention_dim = {1280, 1280, 1280, 1280};
  int64_t downsample_padding = 1;
  double mid_block_scale_factor = 1;
  std::string act_fn = "silu";
  int64_t norm_num_groups = 32;
  double norm_eps = 1e-5;
  bool use_linear_projection = false;
  bool upcast_attention = false;
  bool scale_shift_time = false;  // resnet_time_scale_shift == "scale_shift"
  int64_t time_embedding_dim = 0;
  int64_t conv_in_kernel = 3;
  int64_t conv_out_kernel = 3;
};

}  // namespace d2g::model

// The options of the autoencoders of model folders: diffusers' AutoencoderKL and AutoencoderTiny.
// Source: diffusers 0.35.2, models/autoencoders/{autoencoder_kl,autoencoder_tiny}.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace d2g::model {

enum class VaeKind { kKl, kTiny };

// What can be loaded, as model_index.json and config.json name it.
bool IsAutoencoderClass(const std::string& name);

// Which of the two a config.json is for: by its _class_name or, without, by its options. Throws
// Error for any other _class_name.
VaeKind ReadVaeKind(const std::string& path);

// What a network's file says about its pictures and latents.
struct AutoencoderTraits {
  // Picture side / latent side as pipelines reckon it.
  int64_t scale() const { return int64_t{1} << (levels - 1); }

  int64_t in_channels = 3;
  int64_t out_channels = 3;
  int64_t latent_channels = 4;
  int64_t levels = 1;
  double scaling_factor = 1;
  double shift_factor = 0;
  std::vector<double> latents_mean;  // one for each latent channel, or empty
  std::vector<double> latents_std;
  bool force_upcast = false;
};

// AutoencoderKL. Defaults are those of diffusers.
struct AutoencoderConfig {
  // Throws Error naming option and value for what is not supported.
  static AutoencoderConfig FromFile(const std::string& path);

  AutoencoderTraits Traits() const;

  int64_t in_channels = 3;
  int64_t out_channels = 3;
  std::vector<int64_t> block_out_channels = {64};
  // Whether a level has attention (AttnDownEncoderBlock2D, AttnUpDecoderBlock2D), in the order in
  // which they run; empty: none has.
  std::vector<bool> down_attends;
  std::vector<bool> up_attends;
  int64_t layers_per_block = 1;
  std::string act_fn = "silu";
  int64_t latent_channels = 4;
  int64_t norm_num_groups = 32;
  int64_t sample_size = 32;  // side of a tile
  double scaling_factor = 0.18215;
  double shift_factor = 0;
  std::vector<double> latents_mean;
  std::vector<double> latents_std;
  bool force_upcast = true;
  bool use_quant_conv = true;
  bool use_post_quant_conv = true;
  bool mid_block_add_attention = true;
};

// AutoencoderTiny. Defaults are those of diffusers. latent_magnitude and latent_shift are read by
// neither of its encode and decode, nor here.
struct AutoencoderTinyConfig {
  // Throws Error naming option and value for what is not supported.
  static AutoencoderTinyConfig FromFile(const std::string& path);

  AutoencoderTraits Traits() const;

  int64_t in_channels = 3;
  int64_t out_channels = 3;
  int64_t latent_channels = 4;
  int64_t encoder_width = 64;  // every entry of encoder_block_out_channels
  int64_t decoder_width = 64;
  std::vector<int64_t> num_encoder_blocks = {1, 3, 3, 3};
  std::vector<int64_t> num_decoder_blocks = {3, 3, 3, 1};
  std::string act_fn = "relu";
  std::string upsample_fn = "nearest";  // or nearest-exact, bilinear, bicubic, area
  double upsampling_scaling_factor = 2;
  double scaling_factor = 1;
  double shift_factor = 0;
};

}  // namespace d2g::model

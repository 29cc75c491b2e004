// The options of a UNet2DConditionModel that d2g supports.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/config/unet_options.h"

namespace d2g::model {

enum class MidBlockType {
  kNone,
  kResnet,          // UNetMidBlock2D, which a U-Net builds with one resnet and nothing else
  kCrossAttention,  // UNetMidBlock2DCrossAttn
};

// What class_labels go through before they join the time embedding.
enum class ClassEmbedType { kNone, kTable, kTimestep, kIdentity, kProjection, kSimpleProjection };

// What else joins the time embedding: nothing, the pooled encoder_hidden_states, or SDXL's
// text_embeds and time_ids.
enum class AdditionEmbedType { kNone, kText, kTextTime };

// Defaults are those of diffusers 0.35.2. Lists have one entry per level (per down block) unless
// they say otherwise.
struct UNetConfig {
  // Reads a diffusers config.json. Throws Error naming the option and its value for everything that
  // would change the result and is not supported, and for values that cannot make a network. What
  // diffusers ignores is ignored: unknown options, and those of other block types. Null is what it
  // is for diffusers: no default, but a value of its own.
  static UNetConfig FromFile(const std::string& path);
  static UNetConfig FromJson(const std::string& text, const std::string& source);

  int64_t levels() const { return static_cast<int64_t>(block_out_channels.size()); }
  // Width of the time embedding, of what it is made from, and of what the blocks read.
  int64_t time_embedding_width() const;
  int64_t time_input_width() const;
  int64_t block_time_width() const;
  // Height or width of a level from that of the level above.
  int64_t downsampled(int64_t size) const { return (size + downsample_padding) / 2; }
  // Width of encoder_hidden_states.
  int64_t text_width() const;
  bool down_attends(size_t level) const;
  // `position` counts from the coarsest level.
  bool up_attends(size_t position) const;
  bool only_cross_attends(size_t level) const;
  // Transformer layers after resnet `layer`.
  int64_t down_depth(size_t level, size_t layer) const;
  int64_t up_depth(size_t position, size_t layer) const;
  int64_t mid_depth() const { return transformer_layers_per_block.back().front(); }

  // Height and width of the latents that the pipeline draws (files/latent_size.h); 0: not said.
  int64_t sample_size = 0;
  int64_t sample_width = 0;
  int64_t in_channels = 4;
  int64_t out_channels = 4;
  bool center_input_sample = false;

  std::vector<std::string> down_block_types = {"CrossAttnDownBlock2D", "CrossAttnDownBlock2D",
                                               "CrossAttnDownBlock2D", "DownBlock2D"};
  MidBlockType mid_block = MidBlockType::kCrossAttention;
  std::vector<std::string> up_block_types = {"UpBlock2D", "CrossAttnUpBlock2D",
                                             "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"};
  std::vector<int64_t> block_out_channels = {320, 640, 1280, 1280};
  std::vector<int64_t> layers_per_block = {2, 2, 2, 2};
  int64_t downsample_padding = 1;
  double mid_block_scale_factor = 1;
  Activation act_fn = Activation::kSilu;
  int64_t norm_num_groups = 32;
  double norm_eps = 1e-5;
  bool scale_shift_time = false;  // resnet_time_scale_shift == "scale_shift"
  int64_t conv_in_kernel = 3;
  int64_t conv_out_kernel = 3;

  std::vector<Depths> transformer_layers_per_block = {{1}, {1}, {1}, {1}};
  // Depths of the up blocks, coarse to fine; empty: those of the down blocks reversed.
  std::vector<Depths> reverse_transformer_layers_per_block;
  // Number of heads: diffusers calls it attention_head_dim in every Stable Diffusion model. 0 at
  // levels without attention that do not say it.
  std::vector<int64_t> attention_heads = {8, 8, 8, 8};
  // The same at all levels with attention.
  std::vector<int64_t> cross_attention_dim = {1280, 1280, 1280, 1280};
  std::vector<bool> only_cross_attention;  // missing entries: false
  bool use_linear_projection = false;
  bool upcast_attention = false;
  int64_t encoder_hid_dim = 0;  // 0: encoder_hidden_states are not projected

  bool fourier_time = false;  // time_embedding_type == "fourier"
  bool flip_sin_to_cos = true;
  double freq_shift = 0;
  int64_t time_embedding_dim = 0;  // 0: a multiple of the first block_out_channels
  std::optional<Activation> time_embedding_act_fn;
  std::optional<Activation> timestep_post_act;
  int64_t time_cond_proj_dim = 0;  // 0: none
  ClassEmbedType class_embed_type = ClassEmbedType::kNone;
  int64_t num_class_embeds = 0;
  bool class_embeddings_concat = false;
  AdditionEmbedType addition_embed_type = AdditionEmbedType::kNone;
  int64_t addition_embed_type_num_heads = 64;
  int64_t addition_time_embed_dim = 0;
  int64_t projection_class_embeddings_input_dim = 0;
};

}  // namespace d2g::model

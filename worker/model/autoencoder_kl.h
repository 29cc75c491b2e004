// diffusers' AutoencoderKL: pictures to latents and back.
// Source: diffusers 0.35.2, models/autoencoders/{autoencoder_kl,vae}.py.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "worker/model/parameters.h"

namespace d2g::model {

// Defaults are those of diffusers.
struct AutoencoderConfig {
  // Throws Error naming option and value for what is not supported.
  static AutoencoderConfig FromFile(const std::string& path);

  // Picture side / latent side.
  int64_t scale() const { return int64_t{1} << (block_out_channels.size() - 1); }

  int64_t in_channels = 3;
  int64_t out_channels = 3;
  std::vector<int64_t> block_out_channels = {64};
  int64_t layers_per_block = 1;
  std::string act_fn = "silu";
  int64_t latent_channels = 4;
  int64_t norm_num_groups = 32;
  double scaling_factor = 0.18215;
  bool use_quant_conv = true;
  bool use_post_quant_conv = true;
  bool mid_block_add_attention = true;
};

// The posterior of a picture, unscaled, each [B, latent_channels, h, w].
struct LatentDistribution {
  at::Tensor mean;
  at::Tensor logvar;  // clamped to [-30, 20]
};

// Encode and Decode are const and may be called from several threads at once.
class AutoencoderKL {
 public:
  // Reads config.json and diffusion_pytorch_model.safetensors. Old attention names (query, key,
  // value, proj_attn) are accepted. Throws Error for missing, extra or wrongly shaped tensors.
  static AutoencoderKL Load(const std::string& folder,
                            const at::TensorOptions& options = at::kFloat);

  AutoencoderKL(const AutoencoderConfig& config, const TensorMap& parameters,
                const at::TensorOptions& options = at::kFloat);
  ~AutoencoderKL();
  AutoencoderKL(AutoencoderKL&&) noexcept;
  AutoencoderKL& operator=(AutoencoderKL&&) noexcept;

  // pictures [B, in_channels, H, W] in [-1, 1], H and W multiples of scale(). scaling_factor is not
  // applied.
  LatentDistribution Encode(const at::Tensor& pictures) const;

  // latents [B, latent_channels, h, w], already divided by scaling_factor. Returns pictures
  // [B, out_channels, h * scale(), w * scale()], about [-1, 1], not clamped.
  at::Tensor Decode(const at::Tensor& latents) const;

  const TensorMap& parameters() const;
  const AutoencoderConfig& config() const;

  // Names and shapes of the parameters that `config` asks for.
  static ShapeMap ParameterShapes(const AutoencoderConfig& config);

 private:
  struct Impl;
  AutoencoderKL();
  std::unique_ptr<Impl> impl_;
};

}  // namespace d2g::model

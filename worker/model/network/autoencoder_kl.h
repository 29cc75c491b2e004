// diffusers' AutoencoderKL, the autoencoder of Stable Diffusion.
// Source: diffusers 0.35.2, models/autoencoders/{autoencoder_kl,vae}.py.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "worker/model/network/autoencoder.h"

namespace d2g::model {

// Defaults are those of diffusers.
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

class AutoencoderKL : public Autoencoder {
 public:
  // Reads config.json and diffusion_pytorch_model.safetensors (or its shards). The attention of old
  // files (query, key, value, proj_attn; weights as 1x1 convolutions) is accepted. Throws Error for
  // missing, extra or wrongly shaped tensors.
  static AutoencoderKL Load(const std::string& folder, const LoadOptions& options = {});

  AutoencoderKL(const AutoencoderConfig& config, const TensorMap& parameters,
                const LoadOptions& options = {});
  ~AutoencoderKL() override;
  AutoencoderKL(AutoencoderKL&&) noexcept;
  AutoencoderKL& operator=(AutoencoderKL&&) noexcept;

  const TensorMap& parameters() const override;
  const AutoencoderConfig& config() const;

  // Names and shapes of the parameters that `config` asks for.
  static ShapeMap ParameterShapes(const AutoencoderConfig& config);

 protected:
  LatentDistribution EncodePart(const at::Tensor& pictures, bool tiled) const override;
  at::Tensor DecodePart(const at::Tensor& latents, bool tiled) const override;
  void CheckTiling() const override;

 private:
  struct Impl;
  explicit AutoencoderKL(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace d2g::model

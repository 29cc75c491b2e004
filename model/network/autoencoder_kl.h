// diffusers' AutoencoderKL, the autoencoder of Stable Diffusion.
// Source: diffusers 0.35.2, models/autoencoders/{autoencoder_kl,vae}.py.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/network/autoencoder.h"

namespace d2g::model {

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

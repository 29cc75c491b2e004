// diffusers' AutoencoderTiny (TAESD, TAESDXL): small convolutional networks without a posterior.
// Source: diffusers 0.35.2, models/autoencoders/{autoencoder_tiny,vae}.py.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/network/autoencoder.h"

namespace d2g::model {

// Encode gives the latents as `mean` and no logvar.
class AutoencoderTiny : public Autoencoder {
 public:
  // As AutoencoderKL::Load.
  static AutoencoderTiny Load(const std::string& folder, const LoadOptions& options = {});

  AutoencoderTiny(const AutoencoderTinyConfig& config, const TensorMap& parameters,
                  const LoadOptions& options = {});
  ~AutoencoderTiny() override;
  AutoencoderTiny(AutoencoderTiny&&) noexcept;
  AutoencoderTiny& operator=(AutoencoderTiny&&) noexcept;

  const TensorMap& parameters() const override;

  // Names and shapes of the parameters that `config` asks for.
  static ShapeMap ParameterShapes(const AutoencoderTinyConfig& config);

 protected:
  LatentDistribution EncodePart(const at::Tensor& pictures, bool tiled) const override;
  at::Tensor DecodePart(const at::Tensor& latents, bool tiled) const override;
  void CheckTiling() const override;

 private:
  struct Impl;
  explicit AutoencoderTiny(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace d2g::model

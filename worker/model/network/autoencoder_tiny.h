// diffusers' AutoencoderTiny (TAESD, TAESDXL): small convolutional networks without a posterior.
// Source: diffusers 0.35.2, models/autoencoders/{autoencoder_tiny,vae}.py.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "worker/model/network/autoencoder.h"

namespace d2g::model {

// Defaults are those of diffusers. latent_magnitude and latent_shift are read by neither of its
// encode and decode, nor here.
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

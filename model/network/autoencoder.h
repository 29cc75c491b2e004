// Pictures to latents and back: what every autoencoder of a model folder can do.
//
//   std::unique_ptr<Autoencoder> vae = LoadAutoencoder(folder + "/vae");
//   at::Tensor pictures = vae->Decode(latents / vae->scaling_factor());
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "model/config/vae_config.h"
#include "model/network/load_options.h"
#include "model/network/parameters.h"

namespace d2g::model {

// What Encode gives, unscaled, each [B, latent_channels, h, w].
struct LatentDistribution {
  at::Tensor mean;    // of the posterior, or the latents of a network that has none
  at::Tensor logvar;  // clamped to [-30, 20]; undefined where the network has no posterior
};

// Encode and Decode may be called from several threads at once, not together with SetTiling. With
// gradients off a batch runs in parts, so that its size does not decide how much memory is needed.
class Autoencoder {
 public:
  virtual ~Autoencoder() = default;

  // pictures [B, in_channels, H, W] in [-1, 1], any dtype. None of the factors below is applied.
  // Sides that the network does not divide evenly give what diffusers gives. Throws Error for
  // another shape, or a side that one of the layers (or of the tiles) cannot halve any more.
  LatentDistribution Encode(const at::Tensor& pictures) const;

  // latents [B, latent_channels, h, w], already unscaled, any dtype. Returns pictures
  // [B, out_channels, H, W], about [-1, 1], not clamped. Throws Error for another shape.
  at::Tensor Decode(const at::Tensor& latents) const;

  // On: pictures larger than a tile are cut into overlapping tiles which are blended, as after
  // diffusers' enable_tiling; a tile's memory bounds the whole. The result differs from the one
  // without tiles. Off at first. Throws Error naming the option that leaves no room for tiles.
  void SetTiling(bool on);

  int64_t in_channels() const { return traits_.in_channels; }
  int64_t out_channels() const { return traits_.out_channels; }
  int64_t latent_channels() const { return traits_.latent_channels; }
  // Picture side / latent side as pipelines reckon it: 2^(levels - 1).
  int64_t scale() const { return traits_.scale(); }

  // For pipelines: StableDiffusionPipeline decodes latents / scaling_factor and ignores the other
  // four. StableDiffusionXLPipeline decodes latents * latents_std / scaling_factor + latents_mean
  // where both are there, and runs a half-precision network in float32 where force_upcast says so.
  // shift_factor (added after the division) belongs to pipelines of 16-channel latents.
  double scaling_factor() const { return traits_.scaling_factor; }
  double shift_factor() const { return traits_.shift_factor; }
  const std::vector<double>& latents_mean() const { return traits_.latents_mean; }
  const std::vector<double>& latents_std() const { return traits_.latents_std; }
  bool force_upcast() const { return traits_.force_upcast; }

  virtual const TensorMap& parameters() const = 0;

 protected:
  explicit Autoencoder(AutoencoderTraits traits) : traits_(std::move(traits)) {}
  Autoencoder(Autoencoder&&) noexcept = default;
  Autoencoder& operator=(Autoencoder&&) noexcept = default;

  // A part of a batch of the right number of channels, in the parameters' dtype and device.
  virtual LatentDistribution EncodePart(const at::Tensor& pictures, bool tiled) const = 0;
  virtual at::Tensor DecodePart(const at::Tensor& latents, bool tiled) const = 0;
  virtual void CheckTiling() const = 0;

 private:
  AutoencoderTraits traits_;
  bool tiling_ = false;
};

// Reads config.json and the weights of an AutoencoderKL or AutoencoderTiny folder. Throws Error for
// any other _class_name, for options that are not supported and for tensors that do not fit, by
// name. Without _class_name the options tell which of the two it is.
std::unique_ptr<Autoencoder> LoadAutoencoder(const std::string& folder,
                                             const LoadOptions& options = {});

}  // namespace d2g::model

#include "model/network/autoencoder_kl.h"

#include <optional>
#include <utility>

#include "model/config/vae_parameters.h"
#include "model/files/error.h"
#include "model/network/vae_networks.h"
#include "model/network/vae_tiling.h"

namespace d2g::model {

namespace {

// How far two neighbouring tiles overlap, as a part of their side.
constexpr double kTileOverlap = 0.25;

VaeNetworkOptions NetworkOptions(const AutoencoderConfig& c, bool encodes) {
  VaeNetworkOptions options;
  options.in_channels = encodes ? c.in_channels : c.latent_channels;
  options.out_channels = encodes ? 2 * c.latent_channels : c.out_channels;
  options.widths = c.block_out_channels;
  options.attends = encodes ? c.down_attends : c.up_attends;
  options.attends.resize(c.block_out_channels.size(), false);
  options.layers = c.layers_per_block;
  options.groups = c.norm_num_groups;
  options.activation = ParseActivation(c.act_fn, "act_fn");
  options.mid_attends = c.mid_block_add_attention;
  return options;
}

}  // namespace

struct AutoencoderKL::Impl {
  Impl(const AutoencoderConfig& c, ParameterReader& reader)
      : config(c),
        encoder(reader, NetworkOptions(c, /*encodes=*/true)),
        decoder(reader, NetworkOptions(c, /*encodes=*/false)) {
    if (c.use_quant_conv) {
      quant.emplace(reader, "quant_conv", 2 * c.latent_channels, 2 * c.latent_channels, 1);
    }
    if (c.use_post_quant_conv) {
      post_quant.emplace(reader, "post_quant_conv", c.latent_channels, c.latent_channels, 1);
    }
    reader.Finish();
    parameters = reader.taken();
  }

  int64_t tile_latents() const {
    return config.sample_size >> (config.block_out_channels.size() - 1);
  }

  at::Tensor Moments(const at::Tensor& pictures) const {
    const int64_t scale = int64_t{1} << (config.block_out_channels.size() - 1);
    if (pictures.size(2) < scale || pictures.size(3) < scale) {
      Fail("vae: pictures (or the last of their tiles) are ", pictures.size(3), "x",
           pictures.size(2), ", the network needs at least ", scale, "x", scale);
    }
    const at::Tensor moments = encoder(pictures);
    return quant ? (*quant)(moments) : moments;
  }

  at::Tensor Picture(const at::Tensor& latents) const {
    return decoder(post_quant ? (*post_quant)(latents) : latents);
  }

  AutoencoderConfig config;
  VaeEncoder encoder;
  VaeDecoder decoder;
  std::optional<Conv2d> quant, post_quant;
  TensorMap parameters;
};

AutoencoderKL AutoencoderKL::Load(const std::string& folder, const LoadOptions& options) {
  const AutoencoderConfig config = AutoencoderConfig::FromFile(folder + "/config.json");
  const TensorMap tensors =
      MatchedParameters(ReadSafetensorsFolder(folder, "diffusion_pytorch_model", options.variant),
                        VaeParameters(config), VaeParameterRules(), folder);
  ParameterReader reader(tensors, folder, options);
  return AutoencoderKL(std::make_unique<Impl>(config, reader));
}

AutoencoderKL::AutoencoderKL(std::unique_ptr<Impl> impl)
    : Autoencoder(impl->config.Traits()), impl_(std::move(impl)) {}

AutoencoderKL::AutoencoderKL(const AutoencoderConfig& config, const TensorMap& parameters,
                             const LoadOptions& options)
    : Autoencoder(config.Traits()) {
  const TensorMap tensors =
      MatchedParameters(parameters, VaeParameters(config), VaeParameterRules(), "vae");
  ParameterReader reader(tensors, "vae", options);
  impl_ = std::make_unique<Impl>(config, reader);
}
AutoencoderKL::~AutoencoderKL() = default;
AutoencoderKL::AutoencoderKL(AutoencoderKL&&) noexcept = default;
AutoencoderKL& AutoencoderKL::operator=(AutoencoderKL&&) noexcept = default;

LatentDistribution AutoencoderKL::EncodePart(const at::Tensor& pictures, bool tiled) const {
  const int64_t side = impl_->config.sample_size, latents = impl_->tile_latents();
  at::Tensor moments;
  if (tiled && (pictures.size(2) > side || pictures.size(3) > side)) {
    BlendedTiles tiles;
    tiles.size = side;
    tiles.stride = static_cast<int64_t>(static_cast<double>(side) * (1 - kTileOverlap));
    tiles.blend = static_cast<int64_t>(static_cast<double>(latents) * kTileOverlap);
    tiles.keep = latents - tiles.blend;
    moments = RunBlendedTiles(pictures, tiles,
                              [this](const at::Tensor& tile) { return impl_->Moments(tile); });
  } else {
    moments = impl_->Moments(pictures);
  }
  const std::vector<at::Tensor> halves = moments.chunk(2, 1);
  return {halves[0], halves[1].clamp(-30, 20)};
}

at::Tensor AutoencoderKL::DecodePart(const at::Tensor& latents, bool tiled) const {
  const int64_t side = impl_->config.sample_size, size = impl_->tile_latents();
  if (!tiled || (latents.size(2) <= size && latents.size(3) <= size)) {
    return impl_->Picture(latents);
  }
  BlendedTiles tiles;
  tiles.size = size;
  tiles.stride = static_cast<int64_t>(static_cast<double>(size) * (1 - kTileOverlap));
  tiles.blend = static_cast<int64_t>(static_cast<double>(side) * kTileOverlap);
  tiles.keep = side - tiles.blend;
  return RunBlendedTiles(latents, tiles,
                         [this](const at::Tensor& tile) { return impl_->Picture(tile); });
}

void AutoencoderKL::CheckTiling() const {
  // A tile of one latent has no room for a stride of three quarters of it.
  if (impl_->tile_latents() < 2) {
    Fail("vae: option \"sample_size\" is ", impl_->config.sample_size, ": tiling needs at least ",
         2 * scale(), ", two latents");
  }
}

const TensorMap& AutoencoderKL::parameters() const { return impl_->parameters; }
const AutoencoderConfig& AutoencoderKL::config() const { return impl_->config; }

ShapeMap AutoencoderKL::ParameterShapes(const AutoencoderConfig& config) {
  return VaeParameters(config);
}

}  // namespace d2g::model

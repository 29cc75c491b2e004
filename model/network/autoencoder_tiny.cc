#include "model/network/autoencoder_tiny.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "model/config/vae_parameters.h"
#include "model/files/error.h"
#include "model/network/vae_networks.h"
#include "model/network/vae_tiling.h"

namespace d2g::model {

namespace {

// Tiles of pictures, and how far two overlap. Neither is in the config.
constexpr int64_t kTileSize = 512;
constexpr double kTileOverlap = 0.125;

std::string LayerName(const std::string& network, int64_t index) {
  return network + ".layers." + std::to_string(index);
}

Conv2d Conv3x3(ParameterReader& reader, const std::string& name, int64_t in, int64_t out,
               int64_t stride, bool has_bias) {
  return Conv2d(reader, name, in, out, 3, stride, 1, has_bias);
}

// diffusers' AutoencoderTinyBlock of equal widths: three convolutions and a shortcut.
struct TinyBlock {
  TinyBlock(ParameterReader& reader, const std::string& name, int64_t width, Activation act)
      : first(reader, name + ".conv.0", width, width, 3, 1, 1),
        second(reader, name + ".conv.2", width, width, 3, 1, 1),
        third(reader, name + ".conv.4", width, width, 3, 1, 1),
        activation(act) {}

  at::Tensor operator()(const at::Tensor& x) const {
    const at::Tensor h = Activate(activation, second(Activate(activation, first(x))));
    return at::relu(third(h) + x);
  }

  Conv2d first, second, third;
  Activation activation;
};

// One stage: the encoder convolves before its blocks, the decoder after them and its upsampling.
struct TinyStage {
  Conv2d conv;
  std::vector<TinyBlock> blocks;
};

struct TinyEncoder {
  TinyEncoder(ParameterReader& reader, const AutoencoderTinyConfig& c) {
    const Activation activation = ParseActivation(c.act_fn, "act_fn");
    int64_t layer = 0;
    const auto next = [&layer] { return LayerName("encoder", layer++); };
    for (size_t i = 0; i < c.num_encoder_blocks.size(); ++i) {
      TinyStage& stage = stages.emplace_back();
      stage.conv = Conv3x3(reader, next(), i == 0 ? c.in_channels : c.encoder_width,
                           c.encoder_width, i == 0 ? 1 : 2, /*has_bias=*/i == 0);
      for (int64_t j = 0; j < c.num_encoder_blocks[i]; ++j) {
        stage.blocks.emplace_back(reader, next(), c.encoder_width, activation);
      }
    }
    conv_out = Conv3x3(reader, next(), c.encoder_width, c.latent_channels, 1, /*has_bias=*/true);
  }

  at::Tensor operator()(const at::Tensor& pictures) const {
    at::Tensor x = (pictures + 1) / 2;
    for (const TinyStage& stage : stages) {
      x = stage.conv(x);
      for (const TinyBlock& block : stage.blocks) x = block(x);
    }
    return conv_out(x);
  }

  std::vector<TinyStage> stages;
  Conv2d conv_out;
};

at::Tensor Enlarge(const at::Tensor& x, const std::string& mode, double factor) {
  const std::vector<double> factors = {factor, factor};
  if (mode == "nearest") return at::upsample_nearest2d(x, std::nullopt, factors);
  if (mode == "nearest-exact") return at::_upsample_nearest_exact2d(x, std::nullopt, factors);
  if (mode == "bilinear") {
    return at::upsample_bilinear2d(x, std::nullopt, /*align_corners=*/false, factors);
  }
  if (mode == "bicubic") {
    return at::upsample_bicubic2d(x, std::nullopt, /*align_corners=*/false, factors);
  }
  const auto side = [factor](int64_t n) {
    return static_cast<int64_t>(std::floor(static_cast<double>(n) * factor));
  };
  return at::adaptive_avg_pool2d(x, {side(x.size(2)), side(x.size(3))});
}

struct TinyDecoder {
  TinyDecoder(ParameterReader& reader, const AutoencoderTinyConfig& c)
      : activation(ParseActivation(c.act_fn, "act_fn")),
        upsample_fn(c.upsample_fn),
        factor(c.upsampling_scaling_factor) {
    int64_t layer = 0;
    const auto next = [&layer] { return LayerName("decoder", layer++); };
    conv_in = Conv3x3(reader, next(), c.latent_channels, c.decoder_width, 1, /*has_bias=*/true);
    ++layer;  // The activation and the upsamplings count as layers.
    for (size_t i = 0; i < c.num_decoder_blocks.size(); ++i) {
      const bool last = i + 1 == c.num_decoder_blocks.size();
      TinyStage& stage = stages.emplace_back();
      for (int64_t j = 0; j < c.num_decoder_blocks[i]; ++j) {
        stage.blocks.emplace_back(reader, next(), c.decoder_width, activation);
      }
      if (!last) ++layer;
      stage.conv = Conv3x3(reader, next(), c.decoder_width, last ? c.out_channels : c.decoder_width,
                           1, /*has_bias=*/last);
    }
  }

  at::Tensor operator()(const at::Tensor& latents) const {
    at::Tensor x = Activate(activation, conv_in(at::tanh(latents / 3) * 3));
    for (size_t i = 0; i < stages.size(); ++i) {
      for (const TinyBlock& block : stages[i].blocks) x = block(x);
      if (i + 1 < stages.size()) x = Enlarge(x, upsample_fn, factor);
      x = stages[i].conv(x);
    }
    return x * 2 - 1;
  }

  Activation activation;
  std::string upsample_fn;
  double factor;
  Conv2d conv_in;
  std::vector<TinyStage> stages;
};

}  // namespace

struct AutoencoderTiny::Impl {
  Impl(const AutoencoderTinyConfig& c, ParameterReader& reader)
      : config(c), encoder(reader, c), decoder(reader, c) {
    reader.Finish();
    parameters = reader.taken();
  }

  // Picture side / latent side of each network.
  int64_t encoder_scale() const { return int64_t{1} << (config.num_encoder_blocks.size() - 1); }
  double decoder_scale() const {
    return std::pow(config.upsampling_scaling_factor,
                    static_cast<double>(config.num_decoder_blocks.size() - 1));
  }

  AutoencoderTinyConfig config;
  TinyEncoder encoder;
  TinyDecoder decoder;
  TensorMap parameters;
};

AutoencoderTiny AutoencoderTiny::Load(const std::string& folder, const LoadOptions& options) {
  const AutoencoderTinyConfig config = AutoencoderTinyConfig::FromFile(folder + "/config.json");
  const TensorMap tensors =
      MatchedParameters(ReadSafetensorsFolder(folder, "diffusion_pytorch_model", options.variant),
                        VaeParameters(config), VaeParameterRules(), folder);
  ParameterReader reader(tensors, folder, options);
  return AutoencoderTiny(std::make_unique<Impl>(config, reader));
}

AutoencoderTiny::AutoencoderTiny(std::unique_ptr<Impl> impl)
    : Autoencoder(impl->config.Traits()), impl_(std::move(impl)) {}

AutoencoderTiny::AutoencoderTiny(const AutoencoderTinyConfig& config, const TensorMap& parameters,
                                 const LoadOptions& options)
    : Autoencoder(config.Traits()) {
  const TensorMap tensors =
      MatchedParameters(parameters, VaeParameters(config), VaeParameterRules(), "vae");
  ParameterReader reader(tensors, "vae", options);
  impl_ = std::make_unique<Impl>(config, reader);
}
AutoencoderTiny::~AutoencoderTiny() = default;
AutoencoderTiny::AutoencoderTiny(AutoencoderTiny&&) noexcept = default;
AutoencoderTiny& AutoencoderTiny::operator=(AutoencoderTiny&&) noexcept = default;

LatentDistribution AutoencoderTiny::EncodePart(const at::Tensor& pictures, bool tiled) const {
  if (!tiled) return {impl_->encoder(pictures), {}};
  const int64_t scale = impl_->encoder_scale();
  const int64_t height = pictures.size(2), width = pictures.size(3);
  if (height % scale != 0 || width % scale != 0) {
    Fail("vae: pictures are ", width, "x", height, ": tiling needs sides that are multiples of ",
         scale);
  }
  const auto overlap = static_cast<int64_t>(kTileSize * kTileOverlap);
  OverlaidTiles tiles;
  tiles.size = kTileSize;
  tiles.stride = kTileSize - overlap;
  tiles.out_size = kTileSize / scale;
  tiles.out_stride = tiles.stride / scale;
  tiles.blend = overlap / scale;
  return {RunOverlaidTiles(pictures, tiles, latent_channels(), height / scale, width / scale,
                           [this](const at::Tensor& tile) { return impl_->encoder(tile); }),
          {}};
}

at::Tensor AutoencoderTiny::DecodePart(const at::Tensor& latents, bool tiled) const {
  if (!tiled) return impl_->decoder(latents);
  const auto scale = static_cast<int64_t>(impl_->decoder_scale());
  OverlaidTiles tiles;
  tiles.size = kTileSize / scale;
  const auto overlap = static_cast<int64_t>(static_cast<double>(tiles.size) * kTileOverlap);
  tiles.stride = tiles.size - overlap;
  tiles.out_size = tiles.size * scale;
  tiles.out_stride = tiles.stride * scale;
  tiles.blend = overlap * scale;
  return RunOverlaidTiles(latents, tiles, out_channels(), latents.size(2) * scale,
                          latents.size(3) * scale,
                          [this](const at::Tensor& tile) { return impl_->decoder(tile); });
}

void AutoencoderTiny::CheckTiling() const {
  // The overlap of two tiles, an eighth of them, must be at least two points of both sides.
  constexpr int64_t kMaxScale = kTileSize / 16;
  if (impl_->encoder_scale() > kMaxScale) {
    Fail("vae: option \"num_encoder_blocks\" has ", impl_->config.num_encoder_blocks.size(),
         " entries: tiling needs a scale of at most ", kMaxScale);
  }
  const double scale = impl_->decoder_scale();
  if (scale != std::floor(scale) || scale > kMaxScale || scale < 2) {
    Fail("vae: options \"num_decoder_blocks\" and \"upsampling_scaling_factor\" give a scale of ",
         scale, ": tiling needs a whole number in [2, ", kMaxScale, "]");
  }
}

const TensorMap& AutoencoderTiny::parameters() const { return impl_->parameters; }

ShapeMap AutoencoderTiny::ParameterShapes(const AutoencoderTinyConfig& config) {
  return VaeParameters(config);
}

}  // namespace d2g::model

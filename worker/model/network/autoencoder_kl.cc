#include "worker/model/network/autoencoder_kl.h"

#include <optional>
#include <utility>

#include "worker/model/files/error.h"
#include "worker/model/files/json_config.h"
#include "worker/model/network/vae_networks.h"
#include "worker/model/network/vae_tiling.h"

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

// The attention's parameters with the names and shapes of today.
TensorMap Renamed(const TensorMap& parameters) {
  const std::pair<std::string, std::string> kOldNames[] = {{".query.", ".to_q."},
                                                           {".key.", ".to_k."},
                                                           {".value.", ".to_v."},
                                                           {".proj_attn.", ".to_out.0."}};
  TensorMap renamed;
  for (const auto& [name, tensor] : parameters) {
    if (name.find(".attentions.") == std::string::npos) {
      renamed[name] = tensor;
      continue;
    }
    std::string now = name;
    for (const auto& [from, to] : kOldNames) {
      const size_t at = now.find(from);
      if (at != std::string::npos) now.replace(at, from.size(), to);
    }
    const bool conv1x1 = tensor.dim() == 4 && tensor.size(2) == 1 && tensor.size(3) == 1;
    renamed[now] = conv1x1 ? tensor.flatten(1) : tensor;
  }
  return renamed;
}

// Whether each level has attention, from the types of its blocks.
std::vector<bool> BlockTypes(const JsonConfig& json, const char* key, const std::string& plain,
                             const std::string& attending, size_t levels) {
  const std::vector<std::string> types = json.Strings(key, {plain});
  if (types.size() != levels) {
    json.FailAt(key, "has " + std::to_string(types.size()) +
                         " entries, but block_out_channels has " + std::to_string(levels));
  }
  std::vector<bool> attends;
  for (const std::string& type : types) {
    const std::string name = type.starts_with("UNetRes") ? type.substr(7) : type;
    if (name != plain && name != attending) {
      json.FailAt(key, "block type \"" + type + "\" is not supported (only " + plain + " and " +
                           attending + " are)");
    }
    attends.push_back(name == attending);
  }
  return attends;
}

// A list with one number for each latent channel, or nothing.
std::vector<double> PerChannel(const JsonConfig& json, const char* key, int64_t channels) {
  std::vector<double> values = json.Doubles(key, {});
  if (!values.empty() && values.size() != static_cast<size_t>(channels)) {
    json.FailAt(key, "has " + std::to_string(values.size()) + " entries, but latent_channels is " +
                         std::to_string(channels));
  }
  return values;
}

// A number, or [height, width]: tiles are square, by the first.
int64_t SampleSize(const JsonConfig& json) {
  if (!json.IsList("sample_size")) return json.IntBetween("sample_size", 32, 1, kMaxConfigSize);
  const std::vector<int64_t> sides = json.Ints("sample_size", {}, 0);
  if (sides.empty() || sides.front() < 1 || sides.front() > kMaxConfigSize) {
    json.FailAt("sample_size", "must hold sides in [1, " + std::to_string(kMaxConfigSize) + "]");
  }
  return sides.front();
}

}  // namespace

AutoencoderConfig AutoencoderConfig::FromFile(const std::string& path) {
  const JsonConfig json(ReadJsonFile(path), path);
  if (json.String("_class_name", "AutoencoderKL") != "AutoencoderKL") {
    json.FailAt("_class_name", "not AutoencoderKL");
  }
  AutoencoderConfig c;
  c.block_out_channels = json.Widths("block_out_channels", c.block_out_channels);
  const size_t levels = c.block_out_channels.size();
  c.down_attends =
      BlockTypes(json, "down_block_types", "DownEncoderBlock2D", "AttnDownEncoderBlock2D", levels);
  c.up_attends =
      BlockTypes(json, "up_block_types", "UpDecoderBlock2D", "AttnUpDecoderBlock2D", levels);
  c.in_channels = json.IntBetween("in_channels", 3, 1, kMaxConfigSize);
  c.out_channels = json.IntBetween("out_channels", 3, 1, kMaxConfigSize);
  c.layers_per_block = json.IntBetween("layers_per_block", 1, 1, kMaxConfigLayers);
  c.act_fn = ReadVaeActivation(json, "silu");
  c.latent_channels = json.IntBetween("latent_channels", 4, 1, kMaxConfigSize);
  c.norm_num_groups = json.IntBetween("norm_num_groups", 32, 1, kMaxConfigSize);
  for (const int64_t width : c.block_out_channels) {
    if (width % c.norm_num_groups != 0) {
      json.FailAt("norm_num_groups",
                  "does not divide " + std::to_string(width) + " of block_out_channels");
    }
  }
  c.sample_size = SampleSize(json);
  c.scaling_factor = json.Double("scaling_factor", 0.18215);
  if (c.scaling_factor == 0) json.FailAt("scaling_factor", "must not be 0");
  c.shift_factor = json.Double("shift_factor", 0);
  c.latents_mean = PerChannel(json, "latents_mean", c.latent_channels);
  c.latents_std = PerChannel(json, "latents_std", c.latent_channels);
  c.force_upcast = json.Bool("force_upcast", true);
  c.use_quant_conv = json.Bool("use_quant_conv", true);
  c.use_post_quant_conv = json.Bool("use_post_quant_conv", true);
  c.mid_block_add_attention = json.Bool("mid_block_add_attention", true);
  return c;
}

AutoencoderTraits AutoencoderConfig::Traits() const {
  AutoencoderTraits traits;
  traits.in_channels = in_channels;
  traits.out_channels = out_channels;
  traits.latent_channels = latent_channels;
  traits.levels = static_cast<int64_t>(block_out_channels.size());
  traits.scaling_factor = scaling_factor;
  traits.shift_factor = shift_factor;
  traits.latents_mean = latents_mean;
  traits.latents_std = latents_std;
  traits.force_upcast = force_upcast;
  return traits;
}

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
      Renamed(ReadSafetensorsFolder(folder, "diffusion_pytorch_model", options.variant));
  ParameterReader reader(tensors, folder, options);
  return AutoencoderKL(std::make_unique<Impl>(config, reader));
}

AutoencoderKL::AutoencoderKL(std::unique_ptr<Impl> impl)
    : Autoencoder(impl->config.Traits()), impl_(std::move(impl)) {}

AutoencoderKL::AutoencoderKL(const AutoencoderConfig& config, const TensorMap& parameters,
                             const LoadOptions& options)
    : Autoencoder(config.Traits()) {
  const TensorMap renamed = Renamed(parameters);
  ParameterReader reader(renamed, "vae", options);
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
  ParameterReader reader;
  const Impl impl(config, reader);
  return reader.shapes();
}

}  // namespace d2g::model

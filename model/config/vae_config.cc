#include "model/config/vae_config.h"

#include <algorithm>
#include <cctype>

#include "model/files/error.h"
#include "model/files/json_config.h"

namespace d2g::model {

namespace {

constexpr const char* kKl = "AutoencoderKL";
constexpr const char* kTiny = "AutoencoderTiny";

// act_fn, in lower case. Throws Error for what diffusers' get_activation does not know.
std::string ReadVaeActivation(const JsonConfig& json, const std::string& fallback) {
  std::string name = json.String("act_fn", fallback);
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (name != "silu" && name != "swish" && name != "mish" && name != "gelu" && name != "relu") {
    json.FailAt("act_fn", "not supported (silu, swish, mish, gelu and relu are)");
  }
  return name;
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

// The one width of a network whose layers all have the same.
int64_t OneWidth(const JsonConfig& json, const char* key) {
  const std::vector<int64_t> widths = json.Widths(key, {64, 64, 64, 64});
  for (const int64_t width : widths) {
    if (width != widths.front()) json.FailAt(key, "its entries must be equal");
  }
  return widths.front();
}

std::vector<int64_t> BlockCounts(const JsonConfig& json, const char* key, const char* widths,
                                 const std::vector<int64_t>& fallback) {
  const size_t stages = json.Widths(widths, {64, 64, 64, 64}).size();
  std::vector<int64_t> counts = json.Has(key) ? json.Ints(key, {}, 0) : fallback;
  if (!json.IsList(key) && json.Has(key)) json.FailAt(key, "must be a list of integers");
  if (counts.size() != stages) {
    json.FailAt(key, "has " + std::to_string(counts.size()) + " entries, but " + widths + " has " +
                         std::to_string(stages));
  }
  for (const int64_t count : counts) {
    if (count < 0 || count > kMaxConfigLayers) {
      json.FailAt(key, "its entries must be in [0, " + std::to_string(kMaxConfigLayers) + "]");
    }
  }
  return counts;
}

}  // namespace

bool IsAutoencoderClass(const std::string& name) { return name == kKl || name == kTiny; }

VaeKind ReadVaeKind(const std::string& path) {
  const JsonConfig json(ReadJsonFile(path), path);
  const std::string class_name =
      json.String("_class_name", json.Has("encoder_block_out_channels") ? kTiny : kKl);
  if (class_name == kKl) return VaeKind::kKl;
  if (class_name == kTiny) return VaeKind::kTiny;
  json.FailAt("_class_name", "not supported (only AutoencoderKL and AutoencoderTiny are)");
}

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

AutoencoderTinyConfig AutoencoderTinyConfig::FromFile(const std::string& path) {
  const JsonConfig json(ReadJsonFile(path), path);
  if (json.String("_class_name", "AutoencoderTiny") != "AutoencoderTiny") {
    json.FailAt("_class_name", "not AutoencoderTiny");
  }
  AutoencoderTinyConfig c;
  c.in_channels = json.IntBetween("in_channels", 3, 1, kMaxConfigSize);
  c.out_channels = json.IntBetween("out_channels", 3, 1, kMaxConfigSize);
  c.latent_channels = json.IntBetween("latent_channels", 4, 1, kMaxConfigSize);
  c.encoder_width = OneWidth(json, "encoder_block_out_channels");
  c.decoder_width = OneWidth(json, "decoder_block_out_channels");
  c.num_encoder_blocks =
      BlockCounts(json, "num_encoder_blocks", "encoder_block_out_channels", c.num_encoder_blocks);
  c.num_decoder_blocks =
      BlockCounts(json, "num_decoder_blocks", "decoder_block_out_channels", c.num_decoder_blocks);
  c.act_fn = ReadVaeActivation(json, "relu");
  c.upsample_fn = json.String("upsample_fn", "nearest");
  const std::vector<std::string> modes = {"nearest", "nearest-exact", "bilinear", "bicubic",
                                          "area"};
  if (std::find(modes.begin(), modes.end(), c.upsample_fn) == modes.end()) {
    json.FailAt("upsample_fn",
                "not supported (nearest, nearest-exact, bilinear, bicubic and area are)");
  }
  c.upsampling_scaling_factor = json.Double("upsampling_scaling_factor", 2);
  if (!(c.upsampling_scaling_factor >= 1 && c.upsampling_scaling_factor <= 64)) {
    json.FailAt("upsampling_scaling_factor", "must be in [1, 64]");
  }
  c.scaling_factor = json.Double("scaling_factor", 1);
  if (c.scaling_factor == 0) json.FailAt("scaling_factor", "must not be 0");
  c.shift_factor = json.Double("shift_factor", 0);
  return c;
}

AutoencoderTraits AutoencoderTinyConfig::Traits() const {
  AutoencoderTraits traits;
  traits.in_channels = in_channels;
  traits.out_channels = out_channels;
  traits.latent_channels = latent_channels;
  traits.levels = static_cast<int64_t>(num_decoder_blocks.size());
  traits.scaling_factor = scaling_factor;
  traits.shift_factor = shift_factor;
  return traits;
}

}  // namespace d2g::model

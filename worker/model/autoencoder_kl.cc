#include "worker/model/autoencoder_kl.h"

#include <optional>
#include <utility>

#include "worker/model/attention.h"
#include "worker/model/error.h"
#include "worker/model/json_config.h"
#include "worker/model/resnet_block.h"

namespace d2g::model {

namespace {

constexpr double kNormEps = 1e-6;

// diffusers' UNetMidBlock2D: resnet, one attention head over all positions, resnet.
struct VaeMidBlock {
  VaeMidBlock(ParameterReader& reader, const std::string& name, const ResnetOptions& resnet,
              bool attends)
      : first(reader, name + ".resnets.0", resnet),
        second(reader, name + ".resnets.1", resnet),
        has_attention(attends) {
    if (!attends) return;
    const int64_t channels = resnet.out_channels;
    const std::string attention = name + ".attentions.0";
    norm = GroupNorm(reader, attention + ".group_norm", resnet.groups, channels, kNormEps);
    q = Linear(reader, attention + ".to_q", channels, channels);
    k = Linear(reader, attention + ".to_k", channels, channels);
    v = Linear(reader, attention + ".to_v", channels, channels);
    out = Linear(reader, attention + ".to_out.0", channels, channels);
  }

  at::Tensor operator()(const at::Tensor& input) const {
    at::Tensor x = first(input);
    if (has_attention) {
      const at::Tensor h = norm(x).flatten(2).transpose(1, 2);
      const at::Tensor attended =
          DotProductAttention(SplitHeads(q(h), 1), SplitHeads(k(h), 1), SplitHeads(v(h), 1));
      x = x + out(MergeHeads(attended)).transpose(1, 2).reshape(x.sizes());
    }
    return second(x);
  }

  ResnetBlock first, second;
  bool has_attention;
  GroupNorm norm;
  Linear q, k, v, out;
};

ResnetOptions Resnet(const AutoencoderConfig& c, int64_t in, int64_t out) {
  ResnetOptions options;
  options.in_channels = in;
  options.out_channels = out;
  options.groups = c.norm_num_groups;
  options.eps = kNormEps;
  options.activation = ParseActivation(c.act_fn, "act_fn");
  return options;
}

struct Encoder {
  Encoder(ParameterReader& reader, const AutoencoderConfig& c)
      : conv_in(reader, "encoder.conv_in", c.in_channels, c.block_out_channels.front(), 3, 1, 1),
        mid(reader, "encoder.mid_block",
            Resnet(c, c.block_out_channels.back(), c.block_out_channels.back()),
            c.mid_block_add_attention),
        norm_out(reader, "encoder.conv_norm_out", c.norm_num_groups, c.block_out_channels.back(),
                 kNormEps),
        conv_out(reader, "encoder.conv_out", c.block_out_channels.back(), 2 * c.latent_channels, 3,
                 1, 1) {
    int64_t in = c.block_out_channels.front();
    for (size_t i = 0; i < c.block_out_channels.size(); ++i) {
      const std::string name = "encoder.down_blocks." + std::to_string(i);
      const int64_t out = c.block_out_channels[i];
      Level& level = levels.emplace_back();
      for (int64_t j = 0; j < c.layers_per_block; ++j) {
        level.resnets.emplace_back(reader, name + ".resnets." + std::to_string(j),
                                   Resnet(c, j == 0 ? in : out, out));
      }
      if (i + 1 < c.block_out_channels.size()) {
        level.downsample.emplace(reader, name + ".downsamplers.0", out, /*padding=*/0);
      }
      in = out;
    }
  }

  at::Tensor operator()(at::Tensor x) const {
    x = conv_in(x);
    for (const Level& level : levels) {
      for (const ResnetBlock& resnet : level.resnets) x = resnet(x);
      if (level.downsample) x = (*level.downsample)(x);
    }
    return conv_out(norm_out.Activated(Activation::kSilu, mid(x)));
  }

  struct Level {
    std::vector<ResnetBlock> resnets;
    std::optional<Downsample> downsample;
  };
  Conv2d conv_in;
  std::vector<Level> levels;
  VaeMidBlock mid;
  GroupNorm norm_out;
  Conv2d conv_out;
};

struct Decoder {
  Decoder(ParameterReader& reader, const AutoencoderConfig& c)
      : conv_in(reader, "decoder.conv_in", c.latent_channels, c.block_out_channels.back(), 3, 1, 1),
        mid(reader, "decoder.mid_block",
            Resnet(c, c.block_out_channels.back(), c.block_out_channels.back()),
            c.mid_block_add_attention),
        norm_out(reader, "decoder.conv_norm_out", c.norm_num_groups, c.block_out_channels.front(),
                 kNormEps),
        conv_out(reader, "decoder.conv_out", c.block_out_channels.front(), c.out_channels, 3, 1,
                 1) {
    int64_t in = c.block_out_channels.back();
    for (size_t i = 0; i < c.block_out_channels.size(); ++i) {
      const std::string name = "decoder.up_blocks." + std::to_string(i);
      const int64_t out = c.block_out_channels[c.block_out_channels.size() - 1 - i];
      Level& level = levels.emplace_back();
      for (int64_t j = 0; j < c.layers_per_block + 1; ++j) {
        level.resnets.emplace_back(reader, name + ".resnets." + std::to_string(j),
                                   Resnet(c, j == 0 ? in : out, out));
      }
      if (i + 1 < c.block_out_channels.size()) {
        level.upsample.emplace(reader, name + ".upsamplers.0", out);
      }
      in = out;
    }
  }

  at::Tensor operator()(at::Tensor x) const {
    x = mid(conv_in(x));
    for (const Level& level : levels) {
      for (const ResnetBlock& resnet : level.resnets) x = resnet(x);
      if (level.upsample) x = (*level.upsample)(x, 2 * x.size(2), 2 * x.size(3));
    }
    return conv_out(norm_out.Activated(Activation::kSilu, x));
  }

  struct Level {
    std::vector<ResnetBlock> resnets;
    std::optional<Upsample> upsample;
  };
  Conv2d conv_in;
  VaeMidBlock mid;
  std::vector<Level> levels;
  GroupNorm norm_out;
  Conv2d conv_out;
};

// The parameters with the attention names of today.
TensorMap Renamed(const TensorMap& parameters) {
  const std::pair<std::string, std::string> kOldNames[] = {{".query.", ".to_q."},
                                                           {".key.", ".to_k."},
                                                           {".value.", ".to_v."},
                                                           {".proj_attn.", ".to_out.0."}};
  TensorMap renamed;
  for (const auto& [name, tensor] : parameters) {
    std::string now = name;
    if (name.find(".attentions.") != std::string::npos) {
      for (const auto& [from, to] : kOldNames) {
        const size_t at = now.find(from);
        if (at != std::string::npos) now.replace(at, from.size(), to);
      }
    }
    renamed[now] = tensor;
  }
  return renamed;
}

void RequireAllBlocks(const JsonConfig& json, const char* key, const std::string& only,
                      size_t levels) {
  const std::vector<std::string> types =
      json.Strings(key, std::vector<std::string>(levels == 1 ? 1 : 0, only));
  if (types.size() != levels) {
    json.FailAt(key,
                "needs as many entries as block_out_channels (" + std::to_string(levels) + ")");
  }
  for (const std::string& type : types) {
    if (type != only) {
      json.FailAt(key, "block type \"" + type + "\" is not supported (only " + only + ")");
    }
  }
}

}  // namespace

AutoencoderConfig AutoencoderConfig::FromFile(const std::string& path) {
  const JsonConfig json(ReadJsonFile(path), path);
  const nlohmann::json& class_name = json.Get("_class_name");
  if (!class_name.is_null() && class_name != "AutoencoderKL") {
    json.FailAt("_class_name", "not supported (only AutoencoderKL is)");
  }
  json.RequireDefault("latents_mean", nullptr);
  json.RequireDefault("latents_std", nullptr);
  json.RequireDefault("shift_factor", nullptr);
  AutoencoderConfig c;
  c.block_out_channels = json.Ints("block_out_channels", c.block_out_channels, 0);
  if (c.block_out_channels.empty()) json.FailAt("block_out_channels", "must not be empty");
  RequireAllBlocks(json, "down_block_types", "DownEncoderBlock2D", c.block_out_channels.size());
  RequireAllBlocks(json, "up_block_types", "UpDecoderBlock2D", c.block_out_channels.size());
  c.in_channels = json.IntAtLeast("in_channels", 3, 1);
  c.out_channels = json.IntAtLeast("out_channels", 3, 1);
  c.layers_per_block = json.IntAtLeast("layers_per_block", 1, 1);
  c.act_fn = json.String("act_fn", "silu");
  ParseActivation(c.act_fn, path);
  c.latent_channels = json.IntAtLeast("latent_channels", 4, 1);
  c.norm_num_groups = json.IntAtLeast("norm_num_groups", 32, 1);
  c.scaling_factor = json.Double("scaling_factor", 0.18215);
  if (c.scaling_factor == 0) json.FailAt("scaling_factor", "must not be 0");
  c.use_quant_conv = json.Bool("use_quant_conv", true);
  c.use_post_quant_conv = json.Bool("use_post_quant_conv", true);
  c.mid_block_add_attention = json.Bool("mid_block_add_attention", true);
  return c;
}

struct AutoencoderKL::Impl {
  Impl(const AutoencoderConfig& c, ParameterReader& reader)
      : config(c), encoder(reader, c), decoder(reader, c) {
    if (c.use_quant_conv) {
      quant.emplace(reader, "quant_conv", 2 * c.latent_channels, 2 * c.latent_channels, 1);
    }
    if (c.use_post_quant_conv) {
      post_quant.emplace(reader, "post_quant_conv", c.latent_channels, c.latent_channels, 1);
    }
    reader.Finish();
    parameters = reader.taken();
  }

  AutoencoderConfig config;
  Encoder encoder;
  Decoder decoder;
  std::optional<Conv2d> quant, post_quant;
  TensorMap parameters;
};

AutoencoderKL AutoencoderKL::Load(const std::string& folder, const at::TensorOptions& options) {
  const AutoencoderConfig config = AutoencoderConfig::FromFile(folder + "/config.json");
  const TensorMap tensors = Renamed(ReadSafetensorsFolder(folder, "diffusion_pytorch_model"));
  ParameterReader reader(tensors, folder, options);
  AutoencoderKL model;
  model.impl_ = std::make_unique<Impl>(config, reader);
  return model;
}

AutoencoderKL::AutoencoderKL() = default;
AutoencoderKL::AutoencoderKL(const AutoencoderConfig& config, const TensorMap& parameters,
                             const at::TensorOptions& options) {
  const TensorMap renamed = Renamed(parameters);
  ParameterReader reader(renamed, "vae", options);
  impl_ = std::make_unique<Impl>(config, reader);
}
AutoencoderKL::~AutoencoderKL() = default;
AutoencoderKL::AutoencoderKL(AutoencoderKL&&) noexcept = default;
AutoencoderKL& AutoencoderKL::operator=(AutoencoderKL&&) noexcept = default;

LatentDistribution AutoencoderKL::Encode(const at::Tensor& pictures) const {
  const AutoencoderConfig& c = impl_->config;
  if (pictures.dim() != 4 || pictures.size(1) != c.in_channels ||
      pictures.size(2) % c.scale() != 0 || pictures.size(3) % c.scale() != 0 ||
      pictures.numel() == 0) {
    Fail("vae: pictures are ", pictures.sizes(), ", not [B, ", c.in_channels,
         ", H, W] with H and W multiples of ", c.scale());
  }
  at::Tensor moments = impl_->encoder(pictures.to(impl_->encoder.conv_in.weight.options()));
  if (impl_->quant) moments = (*impl_->quant)(moments);
  const std::vector<at::Tensor> halves = moments.chunk(2, 1);
  return {halves[0], halves[1].clamp(-30, 20)};
}

at::Tensor AutoencoderKL::Decode(const at::Tensor& latents) const {
  const AutoencoderConfig& c = impl_->config;
  if (latents.dim() != 4 || latents.size(1) != c.latent_channels || latents.numel() == 0) {
    Fail("vae: latents are ", latents.sizes(), ", not [B, ", c.latent_channels, ", h, w]");
  }
  at::Tensor x = latents.to(impl_->decoder.conv_in.weight.options());
  if (impl_->post_quant) x = (*impl_->post_quant)(x);
  return impl_->decoder(x);
}

const TensorMap& AutoencoderKL::parameters() const { return impl_->parameters; }
const AutoencoderConfig& AutoencoderKL::config() const { return impl_->config; }

ShapeMap AutoencoderKL::ParameterShapes(const AutoencoderConfig& config) {
  ParameterReader reader;
  const Impl impl(config, reader);
  return reader.shapes();
}

}  // namespace d2g::model

#include "model/config/unet_config.h"

#include "model/config/unet_options.h"
#include "model/files/error.h"
#include "model/files/latent_size.h"

namespace d2g::model {

namespace {

// Options that change the result and have only one supported value.
void RefuseUnsupported(const JsonConfig& json) {
  const nlohmann::json& class_name = json.Get("_class_name");
  if (!class_name.is_null() && class_name != "UNet2DConditionModel") {
    json.FailAt("_class_name", "not supported (only UNet2DConditionModel is)");
  }
  json.RequireDefault("num_attention_heads", nullptr);
  json.RequireDefault("dual_cross_attention", false);
  json.RequireDefault("attention_type", "default");
  json.RequireDefault("quantization_config", nullptr);
}

// Null is a value of these for which diffusers makes no network.
void RefuseNulls(const JsonConfig& json) {
  for (const char* key : {"in_channels",
                          "out_channels",
                          "freq_shift",
                          "down_block_types",
                          "up_block_types",
                          "only_cross_attention",
                          "block_out_channels",
                          "layers_per_block",
                          "downsample_padding",
                          "mid_block_scale_factor",
                          "dropout",
                          "act_fn",
                          "norm_num_groups",
                          "norm_eps",
                          "cross_attention_dim",
                          "transformer_layers_per_block",
                          "attention_head_dim",
                          "resnet_time_scale_shift",
                          "time_embedding_type",
                          "conv_in_kernel",
                          "conv_out_kernel"}) {
    if (json.IsNull(key)) json.FailAt(key, "must not be null");
  }
}

MidBlockType ReadMidBlock(const JsonConfig& json) {
  if (json.IsNull("mid_block_type")) return MidBlockType::kNone;
  const std::string type = json.String("mid_block_type", "UNetMidBlock2DCrossAttn");
  if (type == "UNetMidBlock2DCrossAttn") return MidBlockType::kCrossAttention;
  if (type == "UNetMidBlock2D") return MidBlockType::kResnet;
  json.FailAt("mid_block_type",
              "not supported (only UNetMidBlock2DCrossAttn, UNetMidBlock2D and null are)");
}

void ReadTransformers(const JsonConfig& json, UNetConfig& c) {
  const char* const kDepths = "transformer_layers_per_block";
  const char* const kReverse = "reverse_transformer_layers_per_block";
  const size_t levels = c.block_out_channels.size();
  const bool mid_attends = c.mid_block == MidBlockType::kCrossAttention;
  std::vector<bool> attends(levels);
  for (size_t level = 0; level < levels; ++level) {
    attends[level] = c.down_attends(level) || c.up_attends(levels - 1 - level) ||
                     (mid_attends && level + 1 == levels);
  }
  c.attention_heads = PerLevel(json, "attention_head_dim", 8, attends, kMaxChannels);
  c.cross_attention_dim = PerLevel(json, "cross_attention_dim", 1280, attends, kMaxWidth);
  int64_t text_width = 0;
  for (size_t level = 0; level < levels; ++level) {
    if (!attends[level]) continue;
    if (c.attention_heads[level] > c.block_out_channels[level]) {
      json.FailAt("attention_head_dim",
                  "is the number of heads and must be at most the level's block_out_channels (" +
                      std::to_string(c.block_out_channels[level]) + ")");
    }
    if (text_width != 0 && c.cross_attention_dim[level] != text_width) {
      json.FailAt("cross_attention_dim", "must be the same at all levels with attention");
    }
    text_width = c.cross_attention_dim[level];
  }
  // One text reaches all levels, so what other levels say of its width does not matter.
  if (text_width != 0) c.cross_attention_dim.assign(levels, text_width);

  bool nested = false, reverse_nested = false;
  c.transformer_layers_per_block = ReadDepths(json, kDepths, levels, &nested);
  if (json.Has(kReverse)) {
    if (!json.IsList(kReverse)) json.FailAt(kReverse, "must be a list or null");
    c.reverse_transformer_layers_per_block = ReadDepths(json, kReverse, levels, &reverse_nested);
  } else if (nested) {
    json.FailAt(kDepths, "needs reverse_transformer_layers_per_block, because it has lists");
  }
  if (mid_attends && c.transformer_layers_per_block.back().empty()) {
    json.FailAt(kDepths, "needs a depth for the middle block");
  }
  int64_t total = 0;
  for (size_t level = 0; level < levels; ++level) {
    const size_t position = levels - 1 - level;
    const int64_t layers = c.layers_per_block[level];
    if (c.down_attends(level) && nested) {
      RequireDepths(json, kDepths, json.Get(kDepths)[level], c.transformer_layers_per_block[level],
                    layers);
    }
    if (c.up_attends(position) && reverse_nested) {
      RequireDepths(json, kReverse, json.Get(kReverse)[position],
                    c.reverse_transformer_layers_per_block[position], layers + 1);
    }
    total += 2 * layers + 1;
    for (int64_t i = 0; i <= layers && total <= kMaxLayers; ++i) {
      const size_t layer = static_cast<size_t>(i);
      if (c.down_attends(level) && i < layers) total += c.down_depth(level, layer);
      if (c.up_attends(position)) total += c.up_depth(position, layer);
    }
  }
  if (total > kMaxLayers) {
    Fail(json.source(), ": options \"layers_per_block\" and \"", kDepths, "\" ask for more than ",
         kMaxLayers, " layers");
  }

  const nlohmann::json& only = json.Get("only_cross_attention");
  if (only.is_array()) {
    if (only.size() != levels) {
      json.FailAt("only_cross_attention",
                  "needs " + std::to_string(levels) + " entries, one for each level");
    }
    for (const nlohmann::json& item : only) {
      if (!item.is_boolean())
        json.FailAt("only_cross_attention", "must be true or false, or a list of these");
      c.only_cross_attention.push_back(item.get<bool>());
    }
  } else {
    c.only_cross_attention.assign(levels, json.Bool("only_cross_attention", false));
  }
  c.use_linear_projection = json.Bool("use_linear_projection", false);
  c.upcast_attention = json.Bool("upcast_attention", false);
}

void ReadEncoderProjection(const JsonConfig& json, UNetConfig& c) {
  c.encoder_hid_dim = OptionalInt(json, "encoder_hid_dim", kMaxWidth);
  if (json.String("encoder_hid_dim_type", "text_proj") != "text_proj") {
    json.FailAt("encoder_hid_dim_type", "not supported (only text_proj and null are)");
  }
  if (json.Has("encoder_hid_dim_type") && c.encoder_hid_dim == 0) {
    json.FailAt("encoder_hid_dim_type", "needs encoder_hid_dim");
  }
  if (c.encoder_hid_dim > 0 && json.IsList("cross_attention_dim")) {
    json.FailAt("cross_attention_dim", "must be a number when encoder_hid_dim is given");
  }
}

void RequireFrequencies(const JsonConfig& json, const UNetConfig& c, const char* what,
                        int64_t width) {
  if (width >= 2 && c.freq_shift == static_cast<double>(width / 2)) {
    json.FailAt("freq_shift", std::string("must not be half of ") + what + " (" +
                                  std::to_string(width) + "), by whose difference is divided");
  }
}

void ReadTime(const JsonConfig& json, UNetConfig& c) {
  const std::string type = json.String("time_embedding_type", "positional");
  if (type != "positional" && type != "fourier") {
    json.FailAt("time_embedding_type", "not supported (only positional and fourier are)");
  }
  c.fourier_time = type == "fourier";
  c.flip_sin_to_cos = json.Bool("flip_sin_to_cos", !json.IsNull("flip_sin_to_cos"));
  c.freq_shift = json.Double("freq_shift", 0);
  c.time_embedding_dim = IntIn(json, "time_embedding_dim", 0, 0, kMaxWidth);
  if (c.fourier_time && c.time_embedding_width() % 2 != 0) {
    json.FailAt("time_embedding_dim", "must be even with time_embedding_type fourier");
  }
  if (!c.fourier_time) {
    RequireFrequencies(json, c, "the first of block_out_channels", c.time_input_width());
  }
  c.time_embedding_act_fn = OptionalActivation(json, "time_embedding_act_fn");
  c.timestep_post_act = OptionalActivation(json, "timestep_post_act");
  c.time_cond_proj_dim = OptionalInt(json, "time_cond_proj_dim", kMaxWidth);
}

void ReadClasses(const JsonConfig& json, UNetConfig& c) {
  const std::string type = json.String("class_embed_type", "");
  if (!json.Has("class_embed_type")) {
    c.num_class_embeds = OptionalInt(json, "num_class_embeds", kMaxClasses);
    if (c.num_class_embeds > 0) c.class_embed_type = ClassEmbedType::kTable;
  } else if (type == "timestep") {
    c.class_embed_type = ClassEmbedType::kTimestep;
  } else if (type == "identity") {
    c.class_embed_type = ClassEmbedType::kIdentity;
  } else if (type == "projection") {
    c.class_embed_type = ClassEmbedType::kProjection;
  } else if (type == "simple_projection") {
    c.class_embed_type = ClassEmbedType::kSimpleProjection;
  } else {
    json.FailAt("class_embed_type",
                "not supported (only timestep, identity, projection, simple_projection and null "
                "are)");
  }
  c.projection_class_embeddings_input_dim =
      OptionalInt(json, "projection_class_embeddings_input_dim", kMaxWidth);
  if ((type == "projection" || type == "simple_projection") &&
      c.projection_class_embeddings_input_dim == 0) {
    json.FailAt("class_embed_type", "needs projection_class_embeddings_input_dim");
  }
  c.class_embeddings_concat = json.Bool("class_embeddings_concat", false);
  if (c.class_embeddings_concat && c.class_embed_type == ClassEmbedType::kNone) {
    json.FailAt("class_embeddings_concat", "needs class_embed_type or num_class_embeds");
  }
}

void ReadAddition(const JsonConfig& json, UNetConfig& c) {
  if (!json.Has("addition_embed_type")) return;
  const std::string type = json.String("addition_embed_type", "");
  if (type != "text" && type != "text_time") {
    json.FailAt("addition_embed_type", "not supported (only text, text_time and null are)");
  }
  if (c.class_embeddings_concat) {
    json.FailAt("addition_embed_type", "does not go with class_embeddings_concat");
  }
  if (type == "text") {
    c.addition_embed_type = AdditionEmbedType::kText;
    if (c.encoder_hid_dim == 0 && json.IsList("cross_attention_dim")) {
      json.FailAt("cross_attention_dim", "must be a number with addition_embed_type text");
    }
    c.addition_embed_type_num_heads =
        IntIn(json, "addition_embed_type_num_heads", 64, 1, kMaxChannels);
    if (c.text_width() % c.addition_embed_type_num_heads != 0) {
      Fail(json.source(), ": option \"addition_embed_type_num_heads\" is ",
           c.addition_embed_type_num_heads, ": must divide the text's width ", c.text_width());
    }
    return;
  }
  c.addition_embed_type = AdditionEmbedType::kTextTime;
  c.addition_time_embed_dim = OptionalInt(json, "addition_time_embed_dim", kMaxWidth);
  if (c.addition_time_embed_dim == 0) {
    json.FailAt("addition_embed_type", "needs addition_time_embed_dim");
  }
  if (c.projection_class_embeddings_input_dim == 0) {
    json.FailAt("addition_embed_type", "needs projection_class_embeddings_input_dim");
  }
  RequireFrequencies(json, c, "addition_time_embed_dim", c.addition_time_embed_dim);
}

}  // namespace

int64_t UNetConfig::time_embedding_width() const {
  if (time_embedding_dim > 0) return time_embedding_dim;
  return (fourier_time ? 2 : 4) * block_out_channels.front();
}

int64_t UNetConfig::time_input_width() const {
  return fourier_time ? time_embedding_width() : block_out_channels.front();
}

int64_t UNetConfig::block_time_width() const {
  return (class_embeddings_concat ? 2 : 1) * time_embedding_width();
}

int64_t UNetConfig::text_width() const {
  return encoder_hid_dim > 0 ? encoder_hid_dim : cross_attention_dim.front();
}

bool UNetConfig::down_attends(size_t level) const {
  return down_block_types[level] == "CrossAttnDownBlock2D";
}

bool UNetConfig::up_attends(size_t position) const {
  return up_block_types[position] == "CrossAttnUpBlock2D";
}

bool UNetConfig::only_cross_attends(size_t level) const {
  return level < only_cross_attention.size() && only_cross_attention[level];
}

int64_t UNetConfig::down_depth(size_t level, size_t layer) const {
  const Depths& depths = transformer_layers_per_block[level];
  return depths.size() == 1 ? depths.front() : depths[layer];
}

int64_t UNetConfig::up_depth(size_t position, size_t layer) const {
  const Depths& depths =
      reverse_transformer_layers_per_block.empty()
          ? transformer_layers_per_block[block_out_channels.size() - 1 - position]
          : reverse_transformer_layers_per_block[position];
  return depths.size() == 1 ? depths.front() : depths[layer];
}

UNetConfig UNetConfig::FromFile(const std::string& path) {
  return FromJson(ReadFileToString(path), path);
}

UNetConfig UNetConfig::FromJson(const std::string& text, const std::string& source) {
  const JsonConfig json(WithoutDefaults(ParseJson(text, source)), source);
  RefuseUnsupported(json);
  RefuseNulls(json);

  UNetConfig c;
  c.block_out_channels = json.Ints("block_out_channels", c.block_out_channels, 0);
  if (c.block_out_channels.empty())
    json.FailAt("block_out_channels", "must be a list that is not empty");
  const size_t levels = c.block_out_channels.size();
  if (c.levels() > kMaxLevels) {
    json.FailAt("block_out_channels",
                "must have at most " + std::to_string(kMaxLevels) + " entries");
  }
  RequireIn(json, "block_out_channels", c.block_out_channels, 1, kMaxChannels);
  c.down_block_types =
      BlockTypes(json, "down_block_types", c.down_block_types, levels, "DownBlock2D");
  c.up_block_types = BlockTypes(json, "up_block_types", c.up_block_types, levels, "UpBlock2D");
  c.mid_block = ReadMidBlock(json);
  c.layers_per_block = json.Ints("layers_per_block", {2}, levels);
  RequireIn(json, "layers_per_block", c.layers_per_block, 1, kMaxLayers);

  if (const std::optional<LatentSize> size = ReadLatentSize(json)) {
    c.sample_size = size->height;
    c.sample_width = size->width;
  }
  c.in_channels = IntIn(json, "in_channels", 4, 1, kMaxChannels);
  c.out_channels = IntIn(json, "out_channels", 4, 1, kMaxChannels);
  c.center_input_sample = json.Bool("center_input_sample", false);
  c.downsample_padding = IntIn(json, "downsample_padding", 1, 0, 1);
  c.mid_block_scale_factor = json.Double("mid_block_scale_factor", 1);
  if (c.mid_block_scale_factor == 0) json.FailAt("mid_block_scale_factor", "must not be 0");
  // Has no effect on what a trained network computes.
  const double dropout = json.Double("dropout", 0);
  if (dropout < 0 || dropout > 1) json.FailAt("dropout", "must be in 0 to 1");
  c.act_fn = ReadActivation(json, "act_fn");
  c.norm_num_groups = json.IntAtLeast("norm_num_groups", 32, 1);
  for (const int64_t channels : c.block_out_channels) {
    if (channels % c.norm_num_groups == 0) continue;
    Fail(source, ": option \"norm_num_groups\" is ", c.norm_num_groups,
         ": must divide all block_out_channels, but does not divide ", channels);
  }
  c.norm_eps = json.Double("norm_eps", 1e-5);
  if (c.norm_eps < 0) json.FailAt("norm_eps", "must not be negative");
  const std::string shift = json.String("resnet_time_scale_shift", "default");
  if (shift != "default" && shift != "scale_shift") {
    json.FailAt("resnet_time_scale_shift", "not supported (only default and scale_shift are)");
  }
  c.scale_shift_time = shift == "scale_shift";
  for (const char* key : {"conv_in_kernel", "conv_out_kernel"}) {
    if (IntIn(json, key, 3, 1, kMaxKernel) % 2 == 0) json.FailAt(key, "must be odd");
  }
  c.conv_in_kernel = json.Int("conv_in_kernel", 3);
  c.conv_out_kernel = json.Int("conv_out_kernel", 3);

  ReadTransformers(json, c);
  ReadEncoderProjection(json, c);
  ReadTime(json, c);
  ReadClasses(json, c);
  ReadAddition(json, c);
  return c;
}

}  // namespace d2g::model

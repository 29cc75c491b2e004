#include "worker/model/unet_config.h"

#include <initializer_list>

#include "worker/model/error.h"
#include "worker/model/json_config.h"
#include "worker/model/layers.h"

namespace d2g::model {

namespace {

// Options that change the result and have only one supported value.
void RefuseUnsupported(const JsonConfig& json) {
  const struct {
    const char* key;
    nlohmann::json only;
  } kFixed[] = {
      {"num_attention_heads", nullptr},
      {"only_cross_attention", false},
      {"mid_block_only_cross_attention", false},
      {"dual_cross_attention", false},
      {"class_embed_type", nullptr},
      {"num_class_embeds", nullptr},
      {"class_embeddings_concat", false},
      {"projection_class_embeddings_input_dim", nullptr},
      {"addition_embed_type", nullptr},
      {"addition_time_embed_dim", nullptr},
      {"encoder_hid_dim", nullptr},
      {"encoder_hid_dim_type", nullptr},
      {"reverse_transformer_layers_per_block", nullptr},
      {"time_embedding_type", "positional"},
      {"time_embedding_act_fn", nullptr},
      {"timestep_post_act", nullptr},
      {"time_cond_proj_dim", nullptr},
      {"attention_type", "default"},
      {"cross_attention_norm", nullptr},
  };
  for (const auto& fixed : kFixed) json.RequireDefault(fixed.key, fixed.only);
  const nlohmann::json& class_name = json.Get("_class_name");
  if (!class_name.is_null() && class_name != "UNet2DConditionModel") {
    json.FailAt("_class_name", "not supported (only UNet2DConditionModel is)");
  }
}

void RequireBlockTypes(const JsonConfig& json, const char* key,
                       const std::vector<std::string>& types, size_t levels,
                       std::initializer_list<const char*> supported) {
  if (types.size() != levels) {
    json.FailAt(key,
                "needs as many entries as block_out_channels (" + std::to_string(levels) + ")");
  }
  for (const std::string& type : types) {
    bool found = false;
    std::string names;
    for (const char* name : supported) {
      found = found || type == name;
      names += (names.empty() ? "" : ", ") + std::string(name);
    }
    if (!found)
      json.FailAt(key, "block type \"" + type + "\" is not supported (only " + names + ")");
  }
}

void RequirePositive(const JsonConfig& json, const char* key, const std::vector<int64_t>& values) {
  for (const int64_t value : values) {
    if (value < 1) json.FailAt(key, "must be at least 1");
  }
}

}  // namespace

UNetConfig UNetConfig::FromFile(const std::string& path) {
  return FromJson(ReadFileToString(path), path);
}

UNetConfig UNetConfig::FromJson(const std::string& text, const std::string& source) {
  const JsonConfig json(ParseJson(text, source), source);
  RefuseUnsupported(json);

  UNetConfig c;
  c.block_out_channels = json.Ints("block_out_channels", c.block_out_channels, 0);
  if (c.block_out_channels.empty()) json.FailAt("block_out_channels", "must not be empty");
  RequirePositive(json, "block_out_channels", c.block_out_channels);
  const size_t levels = c.block_out_channels.size();

  c.down_block_types = json.Strings("down_block_types", c.down_block_types);
  c.up_block_types = json.Strings("up_block_types", c.up_block_types);
  RequireBlockTypes(json, "down_block_types", c.down_block_types, levels,
                    {"DownBlock2D", "CrossAttnDownBlock2D"});
  RequireBlockTypes(json, "up_block_types", c.up_block_types, levels,
                    {"UpBlock2D", "CrossAttnUpBlock2D"});
  const nlohmann::json& mid = json.Get("mid_block_type");
  if (mid.is_string() && mid != "UNetMidBlock2DCrossAttn") {
    json.FailAt("mid_block_type", "not supported (only UNetMidBlock2DCrossAttn and null are)");
  }
  // A missing key means the default block; null, written out, means none.
  const nlohmann::json whole = ParseJson(text, source);
  c.has_mid_block = !(whole.contains("mid_block_type") && mid.is_null());

  const std::vector<int64_t> sample =
      json.Has("sample_size") ? json.Ints("sample_size", {}, 2) : std::vector<int64_t>{0, 0};
  c.sample_size = sample[0];
  c.sample_width = sample[1];
  c.in_channels = json.IntAtLeast("in_channels", 4, 1);
  c.out_channels = json.IntAtLeast("out_channels", 4, 1);
  c.center_input_sample = json.Bool("center_input_sample", false);
  c.flip_sin_to_cos = json.Bool("flip_sin_to_cos", true);
  c.freq_shift = json.Double("freq_shift", 0);
  c.layers_per_block = json.Ints("layers_per_block", {2}, levels);
  c.transformer_layers_per_block = json.Ints("transformer_layers_per_block", {1}, levels);
  c.attention_heads = json.Ints("attention_head_dim", {8}, levels);
  c.cross_attention_dim = json.Ints("cross_attention_dim", {1280}, levels);
  RequirePositive(json, "layers_per_block", c.layers_per_block);
  RequirePositive(json, "transformer_layers_per_block", c.transformer_layers_per_block);
  RequirePositive(json, "attention_head_dim", c.attention_heads);
  RequirePositive(json, "cross_attention_dim", c.cross_attention_dim);
  c.downsample_padding = json.Int("downsample_padding", 1);
  if (c.downsample_padding != 0 && c.downsample_padding != 1) {
    json.FailAt("downsample_padding", "must be 0 or 1");
  }
  c.mid_block_scale_factor = json.Double("mid_block_scale_factor", 1);
  c.act_fn = json.String("act_fn", "silu");
  ParseActivation(c.act_fn, source);
  if (levels > 0 && json.Get("norm_num_groups").is_null() && whole.contains("norm_num_groups")) {
    json.FailAt("norm_num_groups", "not supported (needs a number)");
  }
  c.norm_num_groups = json.IntAtLeast("norm_num_groups", 32, 1);
  c.norm_eps = json.Double("norm_eps", 1e-5);
  c.use_linear_projection = json.Bool("use_linear_projection", false);
  c.upcast_attention = json.Bool("upcast_attention", false);
  const std::string shift = json.String("resnet_time_scale_shift", "default");
  if (shift != "default" && shift != "scale_shift") {
    json.FailAt("resnet_time_scale_shift", "not supported (only default and scale_shift are)");
  }
  c.scale_shift_time = shift == "scale_shift";
  c.time_embedding_dim = json.IntAtLeast("time_embedding_dim", 0, 0);
  c.conv_in_kernel = json.IntAtLeast("conv_in_kernel", 3, 1);
  c.conv_out_kernel = json.IntAtLeast("conv_out_kernel", 3, 1);
  if (c.conv_in_kernel % 2 == 0) json.FailAt("conv_in_kernel", "must be odd");
  if (c.conv_out_kernel % 2 == 0) json.FailAt("conv_out_kernel", "must be odd");
  return c;
}

}  // namespace d2g::model

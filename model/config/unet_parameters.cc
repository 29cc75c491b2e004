#include "model/config/unet_parameters.h"

#include <algorithm>

namespace d2g::model {

namespace {

std::string Numbered(const std::string& prefix, size_t number) {
  return prefix + std::to_string(number);
}

class Lister {
 public:
  explicit Lister(const UNetConfig& config) : c_(config) {}

  ShapeMap List() {
    const int64_t first = c_.block_out_channels.front();
    list_.Conv("conv_in", c_.in_channels, first, c_.conv_in_kernel);
    AddTime();
    AddClasses();
    AddConditions();
    for (size_t level = 0; level < c_.block_out_channels.size(); ++level) AddDown(level);
    if (c_.mid_block != MidBlockType::kNone) AddMid();
    for (size_t i = 0; i < c_.block_out_channels.size(); ++i) AddUp(i);
    list_.Norm("conv_norm_out", first);
    list_.Conv("conv_out", first, c_.out_channels, c_.conv_out_kernel);
    return list_.shapes();
  }

 private:
  // diffusers' TimestepEmbedding.
  void AddEmbedding(const std::string& name, int64_t in) {
    list_.Linear(name + ".linear_1", in, c_.time_embedding_width());
    list_.Linear(name + ".linear_2", c_.time_embedding_width(), c_.time_embedding_width());
  }

  void AddTime() {
    if (c_.fourier_time) list_.Add("time_proj.weight", {c_.time_input_width() / 2});
    AddEmbedding("time_embedding", c_.time_input_width());
    if (c_.time_cond_proj_dim > 0) {
      list_.Linear("time_embedding.cond_proj", c_.time_cond_proj_dim, c_.time_input_width(),
                   /*has_bias=*/false);
    }
  }

  void AddClasses() {
    const int64_t projected = c_.projection_class_embeddings_input_dim;
    switch (c_.class_embed_type) {
      case ClassEmbedType::kNone:
      case ClassEmbedType::kIdentity:
        break;
      case ClassEmbedType::kTable:
        list_.Add("class_embedding.weight", {c_.num_class_embeds, c_.time_embedding_width()});
        break;
      case ClassEmbedType::kTimestep:
        AddEmbedding("class_embedding", c_.time_input_width());
        break;
      case ClassEmbedType::kProjection:
        AddEmbedding("class_embedding", projected);
        break;
      case ClassEmbedType::kSimpleProjection:
        list_.Linear("class_embedding", projected, c_.time_embedding_width());
        break;
    }
  }

  void AddConditions() {
    if (c_.encoder_hid_dim > 0) {
      list_.Linear("encoder_hid_proj", c_.encoder_hid_dim, c_.cross_attention_dim.front());
    }
    if (c_.addition_embed_type == AdditionEmbedType::kTextTime) {
      AddEmbedding("add_embedding", c_.projection_class_embeddings_input_dim);
    } else if (c_.addition_embed_type == AdditionEmbedType::kText) {
      const int64_t width = c_.text_width();
      list_.Norm("add_embedding.norm1", width);
      list_.Add("add_embedding.pool.positional_embedding", {1, width});
      for (const char* part : {"k_proj", "q_proj", "v_proj"}) {
        list_.Linear(std::string("add_embedding.pool.") + part, width, width);
      }
      list_.Linear("add_embedding.proj", width, c_.time_embedding_width());
      list_.Norm("add_embedding.norm2", c_.time_embedding_width());
    }
  }

  void AddResnet(const std::string& name, int64_t in, int64_t out) {
    list_.Resnet(name, in, out, c_.block_time_width(), c_.scale_shift_time);
  }

  // diffusers' Transformer2DModel.
  void AddTransformer(const std::string& name, size_t level, int64_t depth,
                      bool only_cross_attention) {
    const int64_t channels = c_.block_out_channels[level];
    const int64_t heads = c_.attention_heads[level];
    const int64_t width = heads * (channels / heads);
    const int64_t text = c_.cross_attention_dim[level];
    const auto projection = [&](const std::string& part, int64_t in, int64_t out) {
      if (c_.use_linear_projection) {
        list_.Linear(name + part, in, out);
      } else {
        list_.Conv(name + part, in, out, 1);
      }
    };
    const auto attention = [&](const std::string& of, int64_t context) {
      list_.Linear(of + ".to_q", width, width, /*has_bias=*/false);
      list_.Linear(of + ".to_k", context, width, /*has_bias=*/false);
      list_.Linear(of + ".to_v", context, width, /*has_bias=*/false);
      list_.Linear(of + ".to_out.0", width, width);
    };
    list_.Norm(name + ".norm", channels);
    projection(".proj_in", channels, width);
    for (int64_t i = 0; i < depth; ++i) {
      const std::string layer = name + ".transformer_blocks." + std::to_string(i);
      for (const char* norm : {".norm1", ".norm2", ".norm3"}) list_.Norm(layer + norm, width);
      attention(layer + ".attn1", only_cross_attention ? text : width);
      attention(layer + ".attn2", text);
      list_.Linear(layer + ".ff.net.0.proj", width, 8 * width);
      list_.Linear(layer + ".ff.net.2", 4 * width, width);
    }
    projection(".proj_out", width, channels);
  }

  void AddDown(size_t level) {
    const std::string name = Numbered("down_blocks.", level);
    const int64_t out = c_.block_out_channels[level];
    const int64_t in = level == 0 ? out : c_.block_out_channels[level - 1];
    const auto count = static_cast<size_t>(c_.layers_per_block[level]);
    for (size_t i = 0; i < count; ++i) {
      AddResnet(Numbered(name + ".resnets.", i), i == 0 ? in : out, out);
      if (c_.down_attends(level)) {
        AddTransformer(Numbered(name + ".attentions.", i), level, c_.down_depth(level, i),
                       c_.only_cross_attends(level));
      }
    }
    if (level + 1 < c_.block_out_channels.size()) {
      list_.Conv(name + ".downsamplers.0.conv", out, out, 3);
    }
  }

  void AddMid() {
    const int64_t channels = c_.block_out_channels.back();
    AddResnet("mid_block.resnets.0", channels, channels);
    if (c_.mid_block != MidBlockType::kCrossAttention) return;
    // diffusers keeps the self attention here whatever the options say.
    AddTransformer("mid_block.attentions.0", c_.block_out_channels.size() - 1, c_.mid_depth(),
                   /*only_cross_attention=*/false);
    AddResnet("mid_block.resnets.1", channels, channels);
  }

  void AddUp(size_t position) {
    const std::string name = Numbered("up_blocks.", position);
    const size_t levels = c_.block_out_channels.size();
    const size_t level = levels - 1 - position;
    const int64_t out = c_.block_out_channels[level];
    const int64_t below = c_.block_out_channels[std::min(level + 1, levels - 1)];
    const int64_t above = c_.block_out_channels[level == 0 ? 0 : level - 1];
    const auto count = static_cast<size_t>(c_.layers_per_block[level]) + 1;
    for (size_t i = 0; i < count; ++i) {
      const int64_t skip = i == count - 1 ? above : out;
      AddResnet(Numbered(name + ".resnets.", i), (i == 0 ? below : out) + skip, out);
      if (c_.up_attends(position)) {
        AddTransformer(Numbered(name + ".attentions.", i), level, c_.up_depth(position, i),
                       c_.only_cross_attends(level));
      }
    }
    if (level > 0) list_.Conv(name + ".upsamplers.0.conv", out, out, 3);
  }

  const UNetConfig& c_;
  ParameterList list_;
};

}  // namespace

ShapeMap UNetParameters(const UNetConfig& config) { return Lister(config).List(); }

ParameterRules UNetParameterRules() {
  return {.modules = {"add_embedding", "class_embedding", "encoder_hid_proj", "mid_block",
                      "position_net", "time_proj"}};
}

}  // namespace d2g::model

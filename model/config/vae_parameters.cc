#include "model/config/vae_parameters.h"

#include <utility>

namespace d2g::model {

namespace {

std::string Indexed(const std::string& name, size_t index) {
  return name + "." + std::to_string(index);
}

Placement PlaceVae(const std::string& name, const StoredTensor& tensor) {
  if (name.find(".attentions.") == std::string::npos) return {.parameter = name};
  static const std::pair<const char*, const char*> kOldNames[] = {{".query.", ".to_q."},
                                                                  {".key.", ".to_k."},
                                                                  {".value.", ".to_v."},
                                                                  {".proj_attn.", ".to_out.0."}};
  Placement placement{.parameter = name};
  for (const auto& [from, to] : kOldNames) {
    const size_t at = placement.parameter.find(from);
    if (at != std::string::npos) {
      placement.parameter.replace(at, std::string(from).size(), to);
    }
  }
  placement.is_convolution =
      tensor.shape.size() == 4 && tensor.shape[2] == 1 && tensor.shape[3] == 1;
  return placement;
}

class KlLister {
 public:
  explicit KlLister(const AutoencoderConfig& config) : c_(config) {}

  ShapeMap List() {
    AddEncoder();
    AddDecoder();
    if (c_.use_quant_conv) {
      list_.Conv("quant_conv", 2 * c_.latent_channels, 2 * c_.latent_channels, 1);
    }
    if (c_.use_post_quant_conv) {
      list_.Conv("post_quant_conv", c_.latent_channels, c_.latent_channels, 1);
    }
    return list_.shapes();
  }

 private:
  void AddAttention(const std::string& name, int64_t channels) {
    list_.Norm(name + ".group_norm", channels);
    for (const char* part : {".to_q", ".to_k", ".to_v", ".to_out.0"}) {
      list_.Linear(name + part, channels, channels);
    }
  }

  void AddMid(const std::string& name) {
    const int64_t channels = c_.block_out_channels.back();
    list_.Resnet(name + ".resnets.0", channels, channels);
    list_.Resnet(name + ".resnets.1", channels, channels);
    if (c_.mid_block_add_attention) AddAttention(name + ".attentions.0", channels);
  }

  void AddLevel(const std::string& name, int64_t in, int64_t out, int64_t layers, bool attends) {
    for (int64_t i = 0; i < layers; ++i) {
      const auto index = static_cast<size_t>(i);
      list_.Resnet(Indexed(name + ".resnets", index), i == 0 ? in : out, out);
      if (attends) AddAttention(Indexed(name + ".attentions", index), out);
    }
  }

  static bool Attends(const std::vector<bool>& levels, size_t i) {
    return i < levels.size() && levels[i];
  }

  void AddEncoder() {
    const std::vector<int64_t>& widths = c_.block_out_channels;
    list_.Conv("encoder.conv_in", c_.in_channels, widths.front(), 3);
    for (size_t i = 0; i < widths.size(); ++i) {
      const std::string name = Indexed("encoder.down_blocks", i);
      AddLevel(name, widths[i == 0 ? 0 : i - 1], widths[i], c_.layers_per_block,
               Attends(c_.down_attends, i));
      if (i + 1 < widths.size()) {
        list_.Conv(name + ".downsamplers.0.conv", widths[i], widths[i], 3);
      }
    }
    AddMid("encoder.mid_block");
    list_.Norm("encoder.conv_norm_out", widths.back());
    list_.Conv("encoder.conv_out", widths.back(), 2 * c_.latent_channels, 3);
  }

  void AddDecoder() {
    const std::vector<int64_t>& widths = c_.block_out_channels;
    list_.Conv("decoder.conv_in", c_.latent_channels, widths.back(), 3);
    AddMid("decoder.mid_block");
    int64_t in = widths.back();
    for (size_t i = 0; i < widths.size(); ++i) {
      const std::string name = Indexed("decoder.up_blocks", i);
      const int64_t out = widths[widths.size() - 1 - i];
      AddLevel(name, in, out, c_.layers_per_block + 1, Attends(c_.up_attends, i));
      if (i + 1 < widths.size()) list_.Conv(name + ".upsamplers.0.conv", out, out, 3);
      in = out;
    }
    list_.Norm("decoder.conv_norm_out", widths.front());
    list_.Conv("decoder.conv_out", widths.front(), c_.out_channels, 3);
  }

  const AutoencoderConfig& c_;
  ParameterList list_;
};

// The layers of one of AutoencoderTiny's networks, which are numbered through.
class TinyLister {
 public:
  TinyLister(ParameterList* list, std::string network)
      : list_(list), name_(std::move(network) + ".layers") {}

  void Conv(int64_t in, int64_t out, bool has_bias) {
    list_->Conv(Indexed(name_, layer_++), in, out, 3, has_bias);
  }
  void Blocks(int64_t count, int64_t width) {
    for (int64_t i = 0; i < count; ++i) {
      const std::string block = Indexed(name_, layer_++);
      for (const char* conv : {".conv.0", ".conv.2", ".conv.4"}) {
        list_->Conv(block + conv, width, width, 3);
      }
    }
  }
  // An activation or an upsampling, which counts as a layer.
  void Skip() { ++layer_; }

 private:
  ParameterList* const list_;
  const std::string name_;
  size_t layer_ = 0;
};

}  // namespace

ShapeMap VaeParameters(const AutoencoderConfig& config) { return KlLister(config).List(); }

ShapeMap VaeParameters(const AutoencoderTinyConfig& c) {
  ParameterList list;
  TinyLister encoder(&list, "encoder");
  for (size_t i = 0; i < c.num_encoder_blocks.size(); ++i) {
    encoder.Conv(i == 0 ? c.in_channels : c.encoder_width, c.encoder_width, /*has_bias=*/i == 0);
    encoder.Blocks(c.num_encoder_blocks[i], c.encoder_width);
  }
  encoder.Conv(c.encoder_width, c.latent_channels, /*has_bias=*/true);
  TinyLister decoder(&list, "decoder");
  decoder.Conv(c.latent_channels, c.decoder_width, /*has_bias=*/true);
  decoder.Skip();
  for (size_t i = 0; i < c.num_decoder_blocks.size(); ++i) {
    const bool last = i + 1 == c.num_decoder_blocks.size();
    decoder.Blocks(c.num_decoder_blocks[i], c.decoder_width);
    if (!last) decoder.Skip();
    decoder.Conv(c.decoder_width, last ? c.out_channels : c.decoder_width, /*has_bias=*/last);
  }
  return list.shapes();
}

ParameterRules VaeParameterRules() {
  return {.modules = {"post_quant_conv", "quant_conv"}, .place = PlaceVae};
}

}  // namespace d2g::model

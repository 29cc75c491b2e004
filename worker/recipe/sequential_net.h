// Small networks that are one list of layers: the pixel evaluator and the latent feature network.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "worker/model/weights/safetensors.h"

namespace d2g::recipe {

// Read from a folder with config.json and model.safetensors (docs/formats.md). Frozen: its weights
// take no gradient, its input may. Layers: conv2d, group_norm, relu, max_pool2d, avg_pool_global,
// flatten, linear. Immutable: safe to share between threads.
class SequentialNet {
 public:
  // A class that the evaluator knows: a prompt asks for it when it holds one of the words.
  struct Label {
    std::string name;
    std::vector<std::string> words;
  };

  // Throws model::Error naming the file and what is wrong: class or version unknown, layer type
  // unknown, tensor missing, unknown or of another shape, tap outside the layers; model::IoError
  // when a file cannot be read.
  static SequentialNet Load(const std::string& folder);
  // The same from parts: config.json's text and the weights.
  SequentialNet(const std::string& config_json, const model::TensorMap& weights);

  // x [B,C,H,W] fp32: pictures in [-1,1], or scaled latents. The outputs of the layers that the
  // taps name, in the order asked for. Throws model::Error for an unknown tap or wrong channels.
  std::vector<at::Tensor> Taps(const at::Tensor& x, const std::vector<std::string>& names) const;

  // Tap names in the order of their layers, then by name.
  const std::vector<std::string>& tap_names() const { return tap_names_; }
  int64_t image_channels() const { return image_channels_; }
  int64_t image_size() const { return image_size_; }
  const std::vector<Label>& labels() const { return labels_; }

  SequentialNet To(at::Device device) const;

 private:
  enum class LayerType {
    kConv2d,
    kGroupNorm,
    kRelu,
    kMaxPool2d,
    kAvgPoolGlobal,
    kFlatten,
    kLinear
  };
  struct Layer {
    LayerType type;
    at::Tensor weight;
    at::Tensor bias;
    int64_t stride = 1;
    int64_t padding = 0;
    int64_t kernel_size = 1;
    int64_t groups = 1;
    double epsilon = 1e-5;
  };

  std::vector<Layer> layers_;
  std::map<std::string, size_t> taps_;
  std::vector<std::string> tap_names_;
  std::vector<Label> labels_;
  int64_t image_channels_ = 0;
  int64_t image_size_ = 0;
};

}  // namespace d2g::recipe

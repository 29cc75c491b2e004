// What a SequentialNet's config.json says, read without LibTorch.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "model/config/parameter_list.h"

namespace d2g::model {

enum class LayerType { kConv2d, kGroupNorm, kRelu, kMaxPool2d, kAvgPoolGlobal, kFlatten, kLinear };

struct SequentialConfig {
  struct Layer {
    LayerType type = LayerType::kRelu;
    std::vector<int64_t> weight;  // shapes; empty: the layer has no parameters
    std::vector<int64_t> bias;
    int64_t stride = 1;
    int64_t padding = 0;
    int64_t kernel_size = 1;
    int64_t groups = 1;
    double epsilon = 1e-5;
  };
  // A class that the evaluator knows: a prompt asks for it when it holds one of the words.
  struct Label {
    std::string name;
    std::vector<std::string> words;
  };

  // The config of docs/formats.md. Throws model::Error naming what is wrong: class or version
  // unknown, layer type unknown, a number that is missing or out of its limits, a tap outside the
  // layers.
  static SequentialConfig FromJson(const nlohmann::json& config);

  // "layers.{index}.weight" and ".bias".
  model::ShapeMap Parameters() const;
  static std::string ParameterName(size_t layer, const char* kind);

  std::vector<Layer> layers;
  std::map<std::string, size_t> taps;
  // In the order of their layers, then by name.
  std::vector<std::string> tap_names;
  std::vector<Label> labels;
  int64_t image_channels = 0;
  int64_t image_size = 0;
};

}  // namespace d2g::model

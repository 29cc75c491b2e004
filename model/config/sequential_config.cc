#include "model/config/sequential_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "model/files/error.h"
#include "model/files/json_config.h"

namespace d2g::model {
namespace {

using nlohmann::json;

constexpr size_t kMaxLayers = model::kMaxConfigLayers;

class LayerReader {
 public:
  LayerReader(const json& entry, size_t index) : entry_(entry), index_(index) {}

  SequentialConfig::Layer Read() {
    const std::string type = entry_.at("type").get<std::string>();
    SequentialConfig::Layer layer;
    if (type == "conv2d") {
      layer.type = LayerType::kConv2d;
      const int64_t in = Whole("in_channels"), out = Whole("out_channels");
      const int64_t kernel = Whole("kernel_size");
      layer.stride = Whole("stride", 1, 1);
      layer.padding = Whole("padding", 0, 0);
      layer.weight = {out, in, kernel, kernel};
      layer.bias = {out};
    } else if (type == "group_norm") {
      layer.type = LayerType::kGroupNorm;
      layer.groups = Whole("num_groups");
      layer.epsilon = entry_.value("eps", 1e-5);
      const int64_t channels = Whole("num_channels");
      if (channels % layer.groups != 0) Refuse("num_groups", "must divide num_channels");
      layer.weight = layer.bias = {channels};
    } else if (type == "linear") {
      layer.type = LayerType::kLinear;
      const int64_t in = Whole("in_features"), out = Whole("out_features");
      layer.weight = {out, in};
      layer.bias = {out};
    } else if (type == "max_pool2d") {
      layer.type = LayerType::kMaxPool2d;
      layer.kernel_size = Whole("kernel_size");
    } else if (type == "relu") {
      layer.type = LayerType::kRelu;
    } else if (type == "avg_pool_global") {
      layer.type = LayerType::kAvgPoolGlobal;
    } else if (type == "flatten") {
      layer.type = LayerType::kFlatten;
    } else {
      model::Fail("layer ", index_, " has the unknown type \"", model::Printable(type), "\"");
    }
    return layer;
  }

 private:
  [[noreturn]] void Refuse(const char* key, const std::string& why) const {
    model::Fail("layer ", index_, ": ", key, " ", why);
  }

  // From `least` to kMaxConfigSize.
  int64_t Whole(const char* key) const { return Checked(key, entry_.find(key), 1); }
  int64_t Whole(const char* key, int64_t fallback, int64_t least) const {
    const auto found = entry_.find(key);
    return found == entry_.end() ? fallback : Checked(key, found, least);
  }
  int64_t Checked(const char* key, json::const_iterator found, int64_t least) const {
    if (found == entry_.end() || !found->is_number_integer() || found->get<int64_t>() < least ||
        found->get<int64_t>() > model::kMaxConfigSize) {
      Refuse(key, "must be a whole number from " + std::to_string(least) + " to " +
                      std::to_string(model::kMaxConfigSize));
    }
    return found->get<int64_t>();
  }

  const json& entry_;
  const size_t index_;
};

void ReadTaps(const json& config, SequentialConfig* out) {
  for (const auto& [name, place] : config.at("taps").items()) {
    const int64_t index = place.get<int64_t>();
    if (index < 0 || index >= static_cast<int64_t>(out->layers.size())) {
      model::Fail("tap ", model::Printable(name), " is layer ", index, " of ", out->layers.size());
    }
    out->taps[name] = static_cast<size_t>(index);
    out->tap_names.push_back(name);
  }
  std::stable_sort(out->tap_names.begin(), out->tap_names.end(),
                   [&](const auto& a, const auto& b) { return out->taps[a] < out->taps[b]; });
}

}  // namespace

SequentialConfig SequentialConfig::FromJson(const json& config) {
  if (!config.is_object()) throw model::Error("config.json is not a JSON object");
  SequentialConfig out;
  try {
    if (config.value("_class_name", json()) != "SequentialNet" ||
        config.value("version", json()) != 1) {
      throw model::Error("config.json must be a SequentialNet of version 1");
    }
    out.image_channels = config.at("image_channels").get<int64_t>();
    out.image_size = config.at("image_size").get<int64_t>();
    const json& layers = config.at("layers");
    if (layers.size() > kMaxLayers) {
      model::Fail("config.json has ", layers.size(), " layers; at most ", kMaxLayers);
    }
    for (const json& entry : layers) {
      out.layers.push_back(LayerReader(entry, out.layers.size()).Read());
    }
    ReadTaps(config, &out);
    for (const json& entry : config.value("labels", json::array())) {
      out.labels.push_back(
          {entry.at("name").get<std::string>(), entry.at("words").get<std::vector<std::string>>()});
    }
  } catch (const json::exception& error) {
    throw model::Error("config.json: " + model::JsonProblem(error));
  }
  return out;
}

std::string SequentialConfig::ParameterName(size_t layer, const char* kind) {
  return "layers." + std::to_string(layer) + "." + kind;
}

model::ShapeMap SequentialConfig::Parameters() const {
  model::ShapeMap shapes;
  for (size_t i = 0; i < layers.size(); ++i) {
    if (layers[i].weight.empty()) continue;
    shapes[ParameterName(i, "weight")] = layers[i].weight;
    shapes[ParameterName(i, "bias")] = layers[i].bias;
  }
  return shapes;
}

}  // namespace d2g::model

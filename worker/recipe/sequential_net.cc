#include "worker/recipe/sequential_net.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "worker/model/files/error.h"
#include "worker/model/files/json_config.h"

namespace d2g::recipe {
namespace {

using nlohmann::json;

int64_t Positive(const json& layer, const char* key, size_t index) {
  const auto found = layer.find(key);
  if (found == layer.end() || !found->is_number_integer() || found->get<int64_t>() < 1) {
    throw model::Error("layer " + std::to_string(index) + ": " + key +
                       " must be a whole number of at least 1");
  }
  return found->get<int64_t>();
}

}  // namespace

SequentialNet SequentialNet::Load(const std::string& folder) {
  const std::string config = model::ReadFileToString(folder + "/config.json");
  const model::TensorMap weights = model::ReadSafetensors(folder + "/model.safetensors");
  try {
    return SequentialNet(config, weights);
  } catch (const model::Error& error) {
    throw model::Error(folder + ": " + error.what());
  }
}

SequentialNet::SequentialNet(const std::string& config_json, const model::TensorMap& weights) {
  const json config = json::parse(config_json, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) throw model::Error("config.json is not a JSON object");
  try {
    if (config.value("_class_name", "") != "SequentialNet" || config.value("version", 0) != 1) {
      throw model::Error("config.json must be a SequentialNet of version 1");
    }
    image_channels_ = config.at("image_channels").get<int64_t>();
    image_size_ = config.at("image_size").get<int64_t>();
    std::set<std::string> used;
    auto weight = [&](size_t index, const char* kind, std::vector<int64_t> shape) {
      const std::string name = "layers." + std::to_string(index) + "." + kind;
      const auto found = weights.find(name);
      if (found == weights.end()) throw model::Error("model.safetensors lacks " + name);
      if (found->second.sizes() != at::IntArrayRef(shape)) {
        throw model::Error("model.safetensors: " + name +
                           " has another shape than config.json says");
      }
      used.insert(name);
      return found->second.detach().to(at::kFloat).contiguous();
    };
    for (const json& entry : config.at("layers")) {
      const size_t i = layers_.size();
      const std::string type = entry.at("type").get<std::string>();
      Layer layer{};
      if (type == "conv2d") {
        layer.type = LayerType::kConv2d;
        const int64_t in = Positive(entry, "in_channels", i),
                      out = Positive(entry, "out_channels", i);
        const int64_t kernel = Positive(entry, "kernel_size", i);
        layer.stride = entry.value("stride", int64_t{1});
        layer.padding = entry.value("padding", int64_t{0});
        layer.weight = weight(i, "weight", {out, in, kernel, kernel});
        layer.bias = weight(i, "bias", {out});
      } else if (type == "group_norm") {
        layer.type = LayerType::kGroupNorm;
        layer.groups = Positive(entry, "num_groups", i);
        layer.epsilon = entry.value("eps", 1e-5);
        const int64_t channels = Positive(entry, "num_channels", i);
        layer.weight = weight(i, "weight", {channels});
        layer.bias = weight(i, "bias", {channels});
      } else if (type == "linear") {
        layer.type = LayerType::kLinear;
        const int64_t in = Positive(entry, "in_features", i),
                      out = Positive(entry, "out_features", i);
        layer.weight = weight(i, "weight", {out, in});
        layer.bias = weight(i, "bias", {out});
      } else if (type == "max_pool2d") {
        layer.type = LayerType::kMaxPool2d;
        layer.kernel_size = Positive(entry, "kernel_size", i);
      } else if (type == "relu") {
        layer.type = LayerType::kRelu;
      } else if (type == "avg_pool_global") {
        layer.type = LayerType::kAvgPoolGlobal;
      } else if (type == "flatten") {
        layer.type = LayerType::kFlatten;
      } else {
        throw model::Error("layer " + std::to_string(i) + " has the unknown type \"" + type + "\"");
      }
      layers_.push_back(std::move(layer));
    }
    for (const auto& [name, tensor] : weights) {
      if (!used.contains(name))
        throw model::Error("model.safetensors has the unused tensor " + name);
    }
    for (const auto& [name, place] : config.at("taps").items()) {
      const int64_t index = place.get<int64_t>();
      if (index < 0 || index >= static_cast<int64_t>(layers_.size())) {
        throw model::Error("tap " + name + " is layer " + std::to_string(index) + " of " +
                           std::to_string(layers_.size()));
      }
      taps_[name] = static_cast<size_t>(index);
      tap_names_.push_back(name);
    }
    std::stable_sort(tap_names_.begin(), tap_names_.end(),
                     [&](const auto& a, const auto& b) { return taps_[a] < taps_[b]; });
    for (const json& entry : config.value("labels", json::array())) {
      labels_.push_back(
          {entry.at("name").get<std::string>(), entry.at("words").get<std::vector<std::string>>()});
    }
  } catch (const json::exception& error) {
    throw model::Error(std::string("config.json: ") + error.what());
  }
}

std::vector<at::Tensor> SequentialNet::Taps(const at::Tensor& x,
                                            const std::vector<std::string>& names) const {
  if (x.dim() != 4 || x.size(1) != image_channels_) {
    throw model::Error("the network reads [B," + std::to_string(image_channels_) + ",H,W], got " +
                       std::to_string(x.dim()) + " dimensions" +
                       (x.dim() > 1 ? " with " + std::to_string(x.size(1)) + " channels" : ""));
  }
  size_t last = 0;
  for (const std::string& name : names) {
    const auto found = taps_.find(name);
    if (found == taps_.end()) throw model::Error("the network has no tap \"" + name + "\"");
    last = std::max(last, found->second);
  }
  std::vector<at::Tensor> outputs(names.size());
  at::Tensor h = x;
  for (size_t i = 0; i <= last; ++i) {
    const Layer& layer = layers_[i];
    switch (layer.type) {
      case LayerType::kConv2d:
        h = at::conv2d(h, layer.weight, layer.bias, layer.stride, layer.padding);
        break;
      case LayerType::kGroupNorm:
        h = at::group_norm(h, layer.groups, layer.weight, layer.bias, layer.epsilon);
        break;
      case LayerType::kRelu:
        h = at::relu(h);
        break;
      case LayerType::kMaxPool2d:
        h = at::max_pool2d(h, {layer.kernel_size, layer.kernel_size});
        break;
      case LayerType::kAvgPoolGlobal:
        h = at::adaptive_avg_pool2d(h, {1, 1});
        break;
      case LayerType::kFlatten:
        h = h.flatten(1);
        break;
      case LayerType::kLinear:
        h = at::linear(h, layer.weight, layer.bias);
        break;
    }
    for (size_t k = 0; k < names.size(); ++k) {
      if (taps_.at(names[k]) == i) outputs[k] = h;
    }
  }
  return outputs;
}

SequentialNet SequentialNet::To(at::Device device) const {
  SequentialNet moved = *this;
  for (Layer& layer : moved.layers_) {
    if (layer.weight.defined()) layer.weight = layer.weight.to(device);
    if (layer.bias.defined()) layer.bias = layer.bias.to(device);
  }
  return moved;
}

}  // namespace d2g::recipe

#include "worker/distil/sequential_net.h"

#include <algorithm>
#include <utility>

#include "model/check/network_folders.h"
#include "model/files/error.h"
#include "model/network/parameters.h"

namespace d2g::distil {

SequentialNet SequentialNet::Load(const std::string& folder) {
  model::SequentialConfig config = model::CheckNetworkFolder(folder);
  return SequentialNet(std::move(config), model::ReadSafetensors(folder + "/model.safetensors"));
}

SequentialNet::SequentialNet(model::SequentialConfig config, const model::TensorMap& weights)
    : config_(std::move(config)) {
  model::RequireSameParameters(model::StoredTensorsOf(weights), config_.Parameters(),
                               "model.safetensors");
  const auto frozen = [&](size_t layer, const char* kind) {
    return weights.at(model::SequentialConfig::ParameterName(layer, kind))
        .detach()
        .to(at::kFloat)
        .contiguous();
  };
  for (size_t i = 0; i < config_.layers.size(); ++i) {
    Weights& own = weights_.emplace_back();
    if (config_.layers[i].weight.empty()) continue;
    own.weight = frozen(i, "weight");
    own.bias = frozen(i, "bias");
  }
}

std::vector<at::Tensor> SequentialNet::Taps(const at::Tensor& x,
                                            const std::vector<std::string>& names) const {
  if (x.dim() != 4 || x.size(1) != config_.image_channels) {
    throw model::Error("the network reads [B," + std::to_string(config_.image_channels) +
                       ",H,W], got " + std::to_string(x.dim()) + " dimensions" +
                       (x.dim() > 1 ? " with " + std::to_string(x.size(1)) + " channels" : ""));
  }
  size_t last = 0;
  for (const std::string& name : names) {
    const auto found = config_.taps.find(name);
    if (found == config_.taps.end()) throw model::Error("the network has no tap \"" + name + "\"");
    last = std::max(last, found->second);
  }
  std::vector<at::Tensor> outputs(names.size());
  at::Tensor h = x;
  for (size_t i = 0; i <= last; ++i) {
    const model::SequentialConfig::Layer& layer = config_.layers[i];
    const auto& [weight, bias] = weights_[i];
    switch (layer.type) {
      case model::LayerType::kConv2d:
        h = at::conv2d(h, weight, bias, layer.stride, layer.padding);
        break;
      case model::LayerType::kGroupNorm:
        h = at::group_norm(h, layer.groups, weight, bias, layer.epsilon);
        break;
      case model::LayerType::kRelu:
        h = at::relu(h);
        break;
      case model::LayerType::kMaxPool2d:
        h = at::max_pool2d(h, {layer.kernel_size, layer.kernel_size});
        break;
      case model::LayerType::kAvgPoolGlobal:
        h = at::adaptive_avg_pool2d(h, {1, 1});
        break;
      case model::LayerType::kFlatten:
        h = h.flatten(1);
        break;
      case model::LayerType::kLinear:
        h = at::linear(h, weight, bias);
        break;
    }
    for (size_t k = 0; k < names.size(); ++k) {
      if (config_.taps.at(names[k]) == i) outputs[k] = h;
    }
  }
  return outputs;
}

SequentialNet SequentialNet::To(at::Device device) const {
  SequentialNet moved = *this;
  for (Weights& weights : moved.weights_) {
    if (!weights.weight.defined()) continue;
    weights.weight = weights.weight.to(device);
    weights.bias = weights.bias.to(device);
  }
  return moved;
}

}  // namespace d2g::distil

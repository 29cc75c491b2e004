// Small networks that are one list of layers: the pixel evaluator and the latent feature network.
#pragma once

#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/config/sequential_config.h"
#include "model/weights/safetensors.h"

namespace d2g::distil {

// Read from a folder with config.json and model.safetensors (docs/formats.md). Frozen: its weights
// take no gradient, its input may. Layers: conv2d, group_norm, relu, max_pool2d, avg_pool_global,
// flatten, linear. Immutable: safe to share between threads.
class SequentialNet {
 public:
  using Label = model::SequentialConfig::Label;

  // Throws as CheckNetworkFolder does.
  static SequentialNet Load(const std::string& folder);
  // The same from parts.
  SequentialNet(model::SequentialConfig config, const model::TensorMap& weights);

  // x [B,C,H,W] fp32: pictures in [-1,1], or scaled latents. The outputs of the layers that the
  // taps name, in the order asked for. Throws model::Error for an unknown tap or wrong channels.
  std::vector<at::Tensor> Taps(const at::Tensor& x, const std::vector<std::string>& names) const;

  const model::SequentialConfig& config() const { return config_; }
  const std::vector<Label>& labels() const { return config_.labels; }

  SequentialNet To(at::Device device) const;

 private:
  struct Weights {
    at::Tensor weight;
    at::Tensor bias;
  };

  model::SequentialConfig config_;
  std::vector<Weights> weights_;  // one for each layer, undefined where it has none
};

}  // namespace d2g::distil

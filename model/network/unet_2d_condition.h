// diffusers' UNet2DConditionModel: the network of Stable Diffusion 1.x, 2.x, XL and their
// relatives. Source: diffusers 0.35.2, models/unets/unet_2d_condition.py and unet_2d_blocks.py.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/config/unet_config.h"
#include "model/network/unet_conditions.h"
#include "model/weights/safetensors.h"

namespace d2g::model {

// Extra inputs and outputs of one forward pass. The discriminator lives on them.
struct UNetTaps {
  // Added to the feature map of a level: [0] after conv_in, [i] after the i-th down-sampling. Same
  // shape as that feature map (block_out_channels[0] channels at level 0, block_out_channels[i-1]
  // at level i); undefined or missing entries add nothing.
  std::vector<at::Tensor> add_at_level;
  // When set: filled with the output of each down block before its down-sampler, fine to coarse.
  std::vector<at::Tensor>* down_features = nullptr;
  // When set: filled with the output of each up block before its up-sampler, coarse to fine.
  std::vector<at::Tensor>* up_features = nullptr;
};

// Parameters are kept by their diffusers state-dict names. Forward is const and may be called from
// several threads at once; nothing else may run at the same time as it.
//
// Every operation is differentiable twice when gradients are on (attention is then the explicit
// matrix form). Values with and without gradients agree within float error.
class UNet2DConditionModel {
 public:
  // Reads config.json and diffusion_pytorch_model.safetensors (or its shards) from a diffusers
  // component folder and converts parameters to `options`. Throws Error for an option or block type
  // that is not supported and for missing, extra or wrongly shaped tensors, each by name.
  static UNet2DConditionModel Load(const std::string& folder, const LoadOptions& options = {});

  // Copies the tensors (so that the model owns them), converted to `options`. Throws like Load.
  UNet2DConditionModel(const UNetConfig& config, const TensorMap& parameters,
                       const at::TensorOptions& options = at::kFloat);
  ~UNet2DConditionModel();
  UNet2DConditionModel(UNet2DConditionModel&&) noexcept;
  UNet2DConditionModel& operator=(UNet2DConditionModel&&) noexcept;

  // sample [B, in_channels, H, W] (any H, W of at least 1), timestep a number (fractions allowed)
  // or a tensor of any real dtype with 1 or B elements, encoder_hidden_states [B, L, text_width].
  // Returns [B, out_channels, H, W] in the parameters' dtype. Throws Error for shapes that do not
  // fit and for conditions that the network needs and does not get.
  at::Tensor Forward(const at::Tensor& sample, double timestep,
                     const at::Tensor& encoder_hidden_states, const UNetTaps* taps = nullptr) const;
  at::Tensor Forward(const at::Tensor& sample, const at::Tensor& timestep,
                     const at::Tensor& encoder_hidden_states, const UNetTaps* taps = nullptr) const;
  at::Tensor Forward(const at::Tensor& sample, const at::Tensor& timestep,
                     const UNetConditions& conditions, const UNetTaps* taps = nullptr) const;

  // The same with all that does not depend on sample and timestep made before. The conditions may
  // have k times as many rows as the sample: the result is then that of the sample repeated k times
  // ([k * B, ...]), but what does not depend on the conditions is computed once. So guidance costs
  // less than two evaluations.
  PreparedConditions PrepareConditions(const UNetConditions& conditions) const;
  at::Tensor Forward(const at::Tensor& sample, double timestep,
                     const PreparedConditions& conditions) const;
  // timestep with 1 or B elements; on the sample's device nothing waits for it.
  at::Tensor Forward(const at::Tensor& sample, const at::Tensor& timestep,
                     const PreparedConditions& conditions) const;

  // Handles to the parameters by name: write into them in place (add_, copy_,
  // set_requires_grad); replacing a handle does not reach the network.
  const TensorMap& parameters() const;

  // Copies values into the parameters. Throws Error for missing, extra or wrongly shaped names.
  void CopyParametersFrom(const TensorMap& parameters);

  // Keeps copies of the weights in the layout that the CPU's kernels read (packed_weight.h).
  // Forward uses them whenever gradients are off. Call again after parameters changed;
  // CopyParametersFrom does it by itself if it was called before.
  void PrepareForInference();

  const UNetConfig& config() const;

  // Names and shapes of the parameters that `config` asks for.
  static ShapeMap ParameterShapes(const UNetConfig& config);

 private:
  struct Impl;
  explicit UNet2DConditionModel(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace d2g::model

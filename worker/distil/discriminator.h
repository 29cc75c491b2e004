// The conditional multi-scale discriminator.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/network/unet_2d_condition.h"
#include "model/weights/safetensors.h"

namespace d2g::distil {

// A U-Net that starts as the teacher and judges the triple (z, x, c): x is its input, at the fixed
// timestep 0; the text keeps its cross-attention; z enters through a zero-initialised convolution
// added to the first feature map; x, averaged down to each coarser encoder level, is added there
// through zero-initialised convolutions; an independent readout head on each of the chosen decoder
// scales gives a logit map. The heads' last layers start at 0, so D starts as the teacher with
// logit 0 everywhere.
//
// Parameters by name: "unet.{diffusers name}" (without the unused output layers), "noise_in.weight"
// and ".bias", "latent_in.{level}.*", "heads.{scale}.{norm,hidden,logit}.*" with
// scale 0 the finest.
//
// Forward is const; not thread-safe against writers of the parameters.
class Discriminator {
 public:
  // Timestep given to the U-Net: D sees clean latents.
  static constexpr int64_t kTimestep = 0;
  // What the names of the parameters that come from the teacher start with.
  static constexpr char kBackbonePrefix[] = "unet.";

  // A new one. `output_scales`: scales with a head, counted from the finest; 0: all. `seed` draws
  // the heads' first layers. Throws model::Error when there are fewer scales, naming both.
  Discriminator(const model::UNet2DConditionModel& teacher_unet, int output_scales, uint64_t seed,
                at::Device device);

  // One that was trained, from a checkpoint's tensors. Throws model::Error naming a tensor that is
  // missing, unknown or of another shape.
  Discriminator(const model::UNet2DConditionModel& teacher_unet, const model::TensorMap& trained,
                at::Device device);

  // Handles by name; write through them.
  const model::TensorMap& parameters() const { return parameters_; }

  // z, x [B,C,H,W], text [B,L,D] -> a logit map [B,1,h,w] per scale, finest first.
  std::vector<at::Tensor> Forward(const at::Tensor& z, const at::Tensor& x,
                                  const at::Tensor& text) const;

  // Scales with a head.
  int output_scales() const { return static_cast<int>(output_scales_); }

 private:
  model::TensorMap parameters_;
  std::unique_ptr<model::UNet2DConditionModel> unet_;
  size_t levels_;
  size_t output_scales_;
};

// Softplus(-logit) for real, softplus(logit) for fake, averaged over positions and scales -> [B].
at::Tensor RealLoss(const std::vector<at::Tensor>& logits);
at::Tensor FakeLoss(const std::vector<at::Tensor>& logits);
// The logit that decides: the mean over positions and scales -> [B].
at::Tensor MeanLogit(const std::vector<at::Tensor>& logits);

}  // namespace d2g::distil

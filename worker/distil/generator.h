// How a U-Net at one fixed timestep becomes the one-step generator.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <ATen/core/Tensor.h>

#include "d2g/common/v1/train_spec.pb.h"
#include "model/network/unet_2d_condition.h"
#include "model/solver/ddim_scheduler.h"

namespace d2g::distil {

// Turns noise and text into a latent with one forward of a U-Net. The conversion runs in fp32: at
// the last timestep of SD 1.5 1/alpha is 14.6, which would magnify half-precision rounding.
// Immutable: safe to share.
class OneStepGenerator {
 public:
  // `t0`: nothing takes the schedule's last timestep. `parametrization`:
  // "x0" (or empty) converts the network's output as the teacher's file says; "sample" takes the
  // output as x. Throws model::Error naming the value and what is allowed; also when the teacher
  // predicts epsilon and alpha is 0 at t0 (zero terminal SNR), where x0 does not exist.
  OneStepGenerator(const model::DdimScheduler& teacher, std::optional<int64_t> t0,
                   const std::string& parametrization);

  // As a normal spec says.
  OneStepGenerator(const model::DdimScheduler& teacher, const common::v1::TrainSpec& spec);

  // z [B,C,H,W], text [B,L,D] -> x [B,C,H,W] fp32, scaled latent. With graph when gradients are on.
  at::Tensor Generate(const model::UNet2DConditionModel& unet, const at::Tensor& z,
                      const at::Tensor& text) const;

  // What the student's U-Net predicts.
  model::Parametrization output() const { return output_; }
  int64_t t0() const { return t0_; }

 private:
  model::Parametrization output_;
  int64_t t0_;
  float alpha_cumprod_;
};

}  // namespace d2g::distil

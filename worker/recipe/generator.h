// How a U-Net at one fixed timestep becomes the one-step generator.
#pragma once

#include <cstdint>
#include <string>

#include <ATen/core/Tensor.h>

#include "worker/model/unet_2d_condition.h"

namespace d2g::recipe {

// What the student's U-Net predicts at t0.
enum class StudentOutput {
  kEpsilon,   // x = (z - sigma out) / alpha
  kVelocity,  // x = alpha z - sigma out
  kSample,    // x = out
};

// Turns noise and text into a latent with one forward of a U-Net. The conversion runs in fp32: at
// the last timestep of SD 1.5 1/alpha is 14.6, which would magnify half-precision rounding.
// Immutable: safe to share.
class OneStepGenerator {
 public:
  // `alpha_cumprod` is the noise schedule's at t0: alpha = its root, sigma = root of 1 minus it.
  // Throws model::Error when epsilon is asked of a schedule with alpha 0 (zero terminal SNR).
  OneStepGenerator(StudentOutput output, int64_t t0, double alpha_cumprod);

  // `parametrization` is a TrainSpec's: "x0" (or empty) keeps the teacher's `prediction_type`
  // ("epsilon", "v_prediction", "sample"), "sample" takes the output as x. Throws model::Error
  // naming the value and those allowed.
  static StudentOutput OutputFor(const std::string& parametrization,
                                 const std::string& prediction_type);
  // diffusers' name of what the student predicts.
  static std::string PredictionType(StudentOutput output);

  // z [B,C,H,W], text [B,L,D] -> x [B,C,H,W] fp32, scaled latent.
  at::Tensor Generate(const model::UNet2DConditionModel& unet, const at::Tensor& z,
                      const at::Tensor& text) const;
  // z and the U-Net's output, same shape -> x fp32.
  at::Tensor Convert(const at::Tensor& z, const at::Tensor& output) const;

  StudentOutput output() const { return output_; }
  int64_t t0() const { return t0_; }

 private:
  const StudentOutput output_;
  const int64_t t0_;
  const double alpha_;
  const double sigma_;
};

}  // namespace d2g::recipe

// Exponential moving average of parameters.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "model/weights/safetensors.h"
#include "worker/distil/flat_parameters.h"

namespace d2g::distil {

// min(decay, (1 + step) / (10 + step)), the warm-up of diffusers' EMAModel: an average that has
// seen few steps would otherwise hold mostly the values that it started from, the teacher's.
double EmaDecay(double decay, int64_t step);

// average = d * average + (1 - d) * values, fp32, starting at the values, where d is
// EmaDecay(decay, step). `parameters` must outlive it. Not thread-safe.
class Ema {
 public:
  // Throws model::Error unless 0 <= decay < 1.
  Ema(const FlatParameters& parameters, double decay);

  // `step` counts from 0.
  void Update(int64_t step);

  // By parameter name: copies on the CPU.
  model::TensorMap State() const;
  // Throws model::Error naming what is missing or of another shape.
  void LoadState(const model::TensorMap& state);

 private:
  const FlatParameters& parameters_;
  const double decay_;
  at::Tensor average_;
};

}  // namespace d2g::distil

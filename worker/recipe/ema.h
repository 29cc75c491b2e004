// Exponential moving average of parameters.
#pragma once

#include <ATen/core/Tensor.h>

#include "worker/model/weights/safetensors.h"
#include "worker/recipe/flat_parameters.h"

namespace d2g::recipe {

// average = decay * average + (1 - decay) * values, fp32, starting at the values. `parameters` must
// outlive it. Not thread-safe.
class Ema {
 public:
  // Throws model::Error unless 0 <= decay < 1.
  Ema(const FlatParameters& parameters, double decay);

  void Update();

  // By parameter name: copies on the CPU.
  model::TensorMap State() const;
  // Throws model::Error naming what is missing or of another shape.
  void LoadState(const model::TensorMap& state);

 private:
  const FlatParameters& parameters_;
  const double decay_;
  at::Tensor average_;
};

}  // namespace d2g::recipe

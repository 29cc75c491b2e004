// AdamW over flat parameters.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/weights/safetensors.h"
#include "worker/distil/flat_parameters.h"

namespace d2g::distil {

// Adam with decoupled weight decay (Loshchilov and Hutter 2019), bias-corrected, beta 0.9 and 0.999
// unless told otherwise, epsilon 1e-8. One fused kernel over the flat buffer, or one over each
// stretch of it that has a learning rate of its own. `parameters` must outlive it. Not thread-safe.
class AdamW {
 public:
  struct Options {
    double weight_decay = 0;
    double beta1 = 0.9;
    double beta2 = 0.999;
    double epsilon = 1e-8;
    // Parameters whose names start with this move at `scale` times the rate given to Step; empty:
    // all move alike.
    std::string scaled_prefix;
    double scale = 1;
  };

  // Throws model::Error when no parameter has the scaled prefix.
  AdamW(FlatParameters& parameters, const Options& options);

  // Updates the values from the gradients, in place.
  void Step(double learning_rate);

  // Updates so far.
  int64_t steps() const;
  // "exp_avg.{parameter}", "exp_avg_sq.{parameter}" and "step" ([] fp32): copies on the CPU.
  model::TensorMap State() const;
  // Throws model::Error naming what is missing or of another shape.
  void LoadState(const model::TensorMap& state);

 private:
  // Elements [offset, offset + count) of the flat buffers.
  struct Stretch {
    int64_t offset;
    int64_t count;
    double scale;
  };

  FlatParameters& parameters_;
  const Options options_;
  std::vector<Stretch> stretches_;
  at::Tensor exp_avg_;
  at::Tensor exp_avg_sq_;
  at::Tensor step_;
};

// Scales `gradients` so that its 2-norm is at most `limit` (0: no limit) and returns the norm that
// it had. Leaves it alone when the norm is not finite.
double ClipGradientNorm(const at::Tensor& gradients, double limit);

}  // namespace d2g::distil

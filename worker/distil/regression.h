// Terms of G's loss that pull G(z, c) to the teacher's solution.
#pragma once

#include <memory>
#include <string>

#include <ATen/core/Tensor.h>

#include "worker/distil/sequential_net.h"

namespace d2g::distil {

// A differentiable distance between latents. Further distances (a latent VGG with augmentations,
// the frozen teacher's features) are further subclasses. Immutable: safe to share.
class RegressionTerm {
 public:
  virtual ~RegressionTerm() = default;

  // Metric name.
  virtual std::string name() const = 0;
  // Factor in G's loss.
  virtual double weight() const = 0;
  // a, b [B,C,H,W] fp32 -> [B].
  virtual at::Tensor PerSample(const at::Tensor& a, const at::Tensor& b) const = 0;
};

// Pseudo-Huber on latents (losses.h). Throws model::Error unless c > 0.
std::shared_ptr<const RegressionTerm> MakePseudoHuberTerm(double weight, double c);

// Distance in the features of `network` at its FeatureTaps (losses.h). Throws as those do.
std::shared_ptr<const RegressionTerm> MakeFeatureTerm(double weight,
                                                      std::shared_ptr<const SequentialNet> network,
                                                      int64_t latent_channels);

}  // namespace d2g::distil

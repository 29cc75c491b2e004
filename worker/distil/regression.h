// Terms of G's loss that pull G(z, c) to the teacher's solution.
#pragma once

#include <cstdint>
#include <memory>

#include <ATen/core/Tensor.h>

#include "d2g/common/v1/train_spec.pb.h"
#include "worker/distil/loss_term.h"
#include "worker/distil/sequential_net.h"

namespace d2g::distil {

// The terms that have a weight in a normal spec, on `device`. Throws model::Error naming the file
// of the latent network that cannot be read or does not take `latent_channels`.
LossTerms MakeRegressionTerms(const common::v1::RegressionSpec& spec, int64_t latent_channels,
                              at::Device device);

// Pseudo-Huber on latents (losses.h).
std::shared_ptr<const LossTerm> MakePseudoHuberTerm(double weight, double c);

// Distance in the features of `network` at its FeatureTaps (losses.h). Throws as those do.
std::shared_ptr<const LossTerm> MakeFeatureTerm(double weight,
                                                std::shared_ptr<const SequentialNet> network,
                                                int64_t latent_channels);

}  // namespace d2g::distil

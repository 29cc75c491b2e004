// The adversarial term of G's loss.
#pragma once

#include <memory>

#include "d2g/common/v1/train_spec.pb.h"
#include "worker/distil/discriminator.h"
#include "worker/distil/loss_term.h"

namespace d2g::distil {

// Non-saturating GAN: softplus(-D(z, G(z, c), c)), from gan.start_step on, with a weight that grows
// over gan.ramp_steps. D's parameters get gradients too unless they were told not to
// (SetRequiresGrad).
std::shared_ptr<const LossTerm> MakeAdversarialTerm(
    const common::v1::GanSpec& gan, std::shared_ptr<const Discriminator> discriminator);

}  // namespace d2g::distil

#include "worker/distil/adversarial.h"

#include <algorithm>
#include <cstdint>
#include <utility>

namespace d2g::distil {
namespace {

class AdversarialTerm : public LossTerm {
 public:
  AdversarialTerm(const common::v1::GanSpec& gan,
                  std::shared_ptr<const Discriminator> discriminator)
      : LossTerm("adversarial", "loss_g_adv", gan.weight()),
        gan_(gan),
        discriminator_(std::move(discriminator)) {}
  double WeightAt(int64_t step) const override {
    if (step < gan_.start_step()) return 0;
    const auto done = static_cast<double>(step - gan_.start_step() + 1);
    const auto ramp = static_cast<double>(std::max<int64_t>(1, gan_.ramp_steps()));
    return gan_.weight() * std::min(1.0, done / ramp);
  }
  at::Tensor PerSample(const at::Tensor& pictures, const MicroBatch& batch) const override {
    return RealLoss(discriminator_->Forward(batch.z, pictures, batch.text));
  }

 private:
  const common::v1::GanSpec gan_;
  const std::shared_ptr<const Discriminator> discriminator_;
};

}  // namespace

std::shared_ptr<const LossTerm> MakeAdversarialTerm(
    const common::v1::GanSpec& gan, std::shared_ptr<const Discriminator> discriminator) {
  return std::make_shared<AdversarialTerm>(gan, std::move(discriminator));
}

}  // namespace d2g::distil

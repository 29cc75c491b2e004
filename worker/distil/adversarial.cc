#include "worker/distil/adversarial.h"

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
    return step < gan_.start_step() ? 0 : gan_.weight();
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

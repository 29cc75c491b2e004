#include "worker/distil/regression.h"

#include <utility>
#include <vector>

#include "model/check/network_folders.h"
#include "model/files/error.h"
#include "worker/distil/losses.h"

namespace d2g::distil {
namespace {

class PseudoHuberTerm : public RegressionTerm {
 public:
  PseudoHuberTerm(double weight, double c) : weight_(weight), c_(c) {}
  std::string name() const override { return "pseudo_huber"; }
  double weight() const override { return weight_; }
  at::Tensor PerSample(const at::Tensor& a, const at::Tensor& b) const override {
    return PseudoHuber(a, b, c_);
  }

 private:
  const double weight_;
  const double c_;
};

class FeatureTerm : public RegressionTerm {
 public:
  FeatureTerm(double weight, std::shared_ptr<const SequentialNet> network,
              std::vector<std::string> taps)
      : weight_(weight), network_(std::move(network)), taps_(std::move(taps)) {}
  std::string name() const override { return "features"; }
  double weight() const override { return weight_; }
  at::Tensor PerSample(const at::Tensor& a, const at::Tensor& b) const override {
    std::vector<at::Tensor> target;
    if (b.requires_grad()) {
      target = network_->Taps(b, taps_);
    } else {
      const at::NoGradGuard no_grad;
      target = network_->Taps(b, taps_);
    }
    return FeatureDistance(network_->Taps(a, taps_), target);
  }

 private:
  const double weight_;
  const std::shared_ptr<const SequentialNet> network_;
  const std::vector<std::string> taps_;
};

}  // namespace

std::shared_ptr<const RegressionTerm> MakePseudoHuberTerm(double weight, double c) {
  if (!(c > 0)) {
    throw model::Error("pseudo_huber_c is " + std::to_string(c) + ", must be above 0");
  }
  return std::make_shared<PseudoHuberTerm>(weight, c);
}

std::shared_ptr<const RegressionTerm> MakeFeatureTerm(double weight,
                                                      std::shared_ptr<const SequentialNet> network,
                                                      int64_t latent_channels) {
  std::vector<std::string> taps = model::FeatureTaps(network->config(), latent_channels);
  return std::make_shared<FeatureTerm>(weight, std::move(network), std::move(taps));
}

}  // namespace d2g::distil

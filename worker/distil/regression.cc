#include "worker/distil/regression.h"

#include <ATen/core/grad_mode.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "model/check/network_folders.h"
#include "worker/distil/losses.h"

namespace d2g::distil {
namespace {

// A distance [B,C,H,W], [B,C,H,W] -> [B] between latents themselves (losses.h).
class LatentTerm : public LossTerm {
 public:
  using Distance = std::function<at::Tensor(const at::Tensor&, const at::Tensor&)>;

  LatentTerm(std::string name, FigureName figure, double weight, Distance distance)
      : LossTerm(std::move(name), figure, weight), distance_(std::move(distance)) {}
  at::Tensor PerSample(const at::Tensor& pictures, const MicroBatch& batch) const override {
    return distance_(pictures, batch.x);
  }

 private:
  const Distance distance_;
};

class FeatureTerm : public LossTerm {
 public:
  FeatureTerm(double weight, std::shared_ptr<const SequentialNet> network,
              std::vector<std::string> taps)
      : LossTerm("features", "loss_features", weight),
        network_(std::move(network)),
        taps_(std::move(taps)) {}
  at::Tensor PerSample(const at::Tensor& pictures, const MicroBatch& batch) const override {
    std::vector<at::Tensor> target;
    {
      const at::NoGradGuard no_grad;
      target = network_->Taps(batch.x, taps_);
    }
    return FeatureDistance(network_->Taps(pictures, taps_), target);
  }

 private:
  const std::shared_ptr<const SequentialNet> network_;
  const std::vector<std::string> taps_;
};

}  // namespace

LossTerms MakeRegressionTerms(const common::v1::RegressionSpec& spec, int64_t latent_channels,
                              at::Device device) {
  LossTerms terms;
  if (spec.pseudo_huber_weight() > 0) {
    terms.push_back(MakePseudoHuberTerm(spec.pseudo_huber_weight(), spec.pseudo_huber_c()));
  }
  if (spec.mse_weight() > 0) {
    terms.push_back(std::make_shared<LatentTerm>("mse", FigureName("loss_mse"), spec.mse_weight(),
                                                 MeanSquaredError));
  }
  if (spec.features_weight() > 0) {
    auto network =
        std::make_shared<SequentialNet>(SequentialNet::Load(spec.features_path()).To(device));
    terms.push_back(MakeFeatureTerm(spec.features_weight(), std::move(network), latent_channels));
  }
  return terms;
}

std::shared_ptr<const LossTerm> MakePseudoHuberTerm(double weight, double c) {
  return std::make_shared<LatentTerm>(
      "pseudo_huber", FigureName("loss_regression"), weight,
      [c](const at::Tensor& a, const at::Tensor& b) { return PseudoHuber(a, b, c); });
}

std::shared_ptr<const LossTerm> MakeFeatureTerm(double weight,
                                                std::shared_ptr<const SequentialNet> network,
                                                int64_t latent_channels) {
  std::vector<std::string> taps = model::FeatureTaps(network->config(), latent_channels);
  return std::make_shared<FeatureTerm>(weight, std::move(network), std::move(taps));
}

}  // namespace d2g::distil

#include "worker/distil/losses.h"

#include <ATen/ATen.h>

#include <string>

#include "model/files/error.h"

namespace d2g::distil {
namespace {

at::Tensor UnitNormalise(const at::Tensor& tap) {
  return tap * (tap.square().sum(1, /*keepdim=*/true) + 1e-8).rsqrt();
}

}  // namespace

at::Tensor PseudoHuber(const at::Tensor& a, const at::Tensor& b, double c) {
  if (!(c > 0)) {
    throw model::Error("pseudo-Huber's c is " + std::to_string(c) + ", must be above 0");
  }
  return (MeanSquaredError(a, b) + c * c).sqrt() - c;
}

at::Tensor MeanSquaredError(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).square().flatten(1).mean(1);
}

at::Tensor FeatureDistance(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  if (a.size() != b.size() || a.empty()) {
    throw model::Error("feature distance got " + std::to_string(a.size()) + " and " +
                       std::to_string(b.size()) + " taps, must be equal and above 0");
  }
  at::Tensor total;
  for (size_t i = 0; i < a.size(); ++i) {
    at::Tensor distance = (UnitNormalise(a[i]) - UnitNormalise(b[i])).square().sum(1);
    if (distance.dim() > 1) distance = distance.flatten(1).mean(1);
    total = total.defined() ? total + distance : distance;
  }
  return total;
}

}  // namespace d2g::distil

#include "worker/evaluate/frechet.h"

#include <ATen/ATen.h>

#include "model/files/error.h"

namespace d2g::evaluate {

FeatureMoments MomentsOf(const at::Tensor& features) {
  if (features.dim() != 2 || features.size(0) < 2) {
    model::Fail("Frechet moments need features [N,D] with N of at least 2, got ", features.sizes());
  }
  const at::Tensor wide = features.detach().to(at::kCPU, at::kDouble);
  if (!at::isfinite(wide).all().item<bool>()) model::Fail("features are not finite");
  FeatureMoments moments;
  moments.mean = wide.mean(0);
  const at::Tensor centred = wide - moments.mean;
  moments.covariance = centred.t().mm(centred) / static_cast<double>(wide.size(0) - 1);
  return moments;
}

double FrechetDistance(const FeatureMoments& a, const FeatureMoments& b) {
  if (a.mean.sizes() != b.mean.sizes()) {
    model::Fail("Frechet distance between ", a.mean.numel(), " and ", b.mean.numel(), " features");
  }
  const auto [values, vectors] = at::linalg_eigh(a.covariance);
  const at::Tensor root = (vectors * values.clamp_min(0).sqrt()).mm(vectors.t());
  const at::Tensor inner = root.mm(b.covariance).mm(root);
  const at::Tensor cross = at::linalg_eigvalsh((inner + inner.t()) / 2).clamp_min(0).sqrt().sum();
  const at::Tensor distance =
      (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * cross;
  return distance.item<double>();
}

}  // namespace d2g::evaluate

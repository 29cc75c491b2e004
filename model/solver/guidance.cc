#include "model/solver/guidance.h"

#include <cmath>
#include <numeric>
#include <vector>

#include <ATen/ATen.h>

namespace d2g::model {

namespace {

// Over all dimensions but the first, with Bessel's correction.
at::Tensor DeviationOfSamples(const at::Tensor& x) {
  std::vector<int64_t> dimensions(static_cast<size_t>(x.dim() - 1));
  std::iota(dimensions.begin(), dimensions.end(), 1);
  return x.std(at::OptionalIntArrayRef(dimensions), /*correction=*/1, /*keepdim=*/true);
}

}  // namespace

at::Tensor Guide(const at::Tensor& uncond, const at::Tensor& cond, double scale, double rescale) {
  const at::Tensor guided = uncond + scale * (cond - uncond);
  if (rescale <= 0) return guided;
  const at::Tensor rescaled = guided * (DeviationOfSamples(cond) / DeviationOfSamples(guided));
  return rescale * rescaled + (1 - rescale) * guided;
}

at::Tensor GuidanceEmbedding(double scale, int64_t rows, int64_t width) {
  const int64_t half = width / 2;
  const at::Tensor step = at::log(at::scalar_tensor(10000.0f, at::kFloat)) / (half - 1);
  const at::Tensor frequencies = at::exp(at::arange(half, at::kFloat) * -step);
  const at::Tensor angles = at::full({rows, 1}, scale - 1, at::kFloat) * 1000.0f * frequencies;
  return at::constant_pad_nd(at::cat({angles.sin(), angles.cos()}, 1), {0, width - 2 * half});
}

}  // namespace d2g::model

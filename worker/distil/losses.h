// Distances between latents or features, per sample.
#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

namespace d2g::distil {

// sqrt(mean of (a - b)^2 over a sample's elements + c^2) - c: quadratic where the root mean square
// is below c, linear above (Song and Dhariwal 2023). a, b [B,...] fp32, c > 0 -> [B].
at::Tensor PseudoHuber(const at::Tensor& a, const at::Tensor& b, double c);

// Mean of (a - b)^2 over a sample's elements. a, b [B,...] fp32 -> [B].
at::Tensor MeanSquaredError(const at::Tensor& a, const at::Tensor& b);

// LPIPS without linear layers: each tap is divided by sqrt(sum over channels of f^2 + 1e-8), the
// squared differences are summed over channels, averaged over positions and summed over taps.
// Taps [B,C,H,W] or [B,C] -> [B]. Throws model::Error when the lists differ in length.
at::Tensor FeatureDistance(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b);

}  // namespace d2g::distil

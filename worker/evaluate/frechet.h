// Frechet distance between Gaussians fitted to features.
#pragma once

#include <ATen/core/Tensor.h>

namespace d2g::evaluate {

// A Gaussian: what FID calls the statistics of a set of pictures.
struct FeatureMoments {
  at::Tensor mean;        // [D] fp64
  at::Tensor covariance;  // [D,D] fp64, divided by N - 1
};

// features [N,D], any float dtype, N >= 2. Computed in fp64 on the CPU. Throws model::Error for
// another shape or features that are not finite.
FeatureMoments MomentsOf(const at::Tensor& features);

// |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Heusel et al. 2017). The trace of the root is taken
// as that of (C1^(1/2) C2 C1^(1/2))^(1/2), which is symmetric: two symmetric eigendecompositions
// instead of a general matrix root, and no imaginary parts to drop. Throws model::Error when the
// sizes differ.
double FrechetDistance(const FeatureMoments& a, const FeatureMoments& b);

}  // namespace d2g::evaluate

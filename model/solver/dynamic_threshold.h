// Dynamic thresholding of a prediction of x0.
// Source: Saharia et al. 2022 (arXiv 2205.11487), section 2.3; diffusers 0.35.2,
// DDPMScheduler._threshold_sample.
#pragma once

#include <ATen/core/Tensor.h>

namespace d2g::model {

// Clamps each row of x [B, ...] to [-s, s] and divides it by s, where s is the `ratio` quantile of
// its absolute values, kept in [1, max_value] (max_value where that is below 1). The same shape and
// dtype; computed in fp32 unless x is double.
at::Tensor DynamicThreshold(const at::Tensor& x, double ratio, double max_value);

}  // namespace d2g::model

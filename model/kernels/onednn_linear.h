// Matrix products through oneDNN, whose kernels use the whole width of the machine where LibTorch's
// BLAS does not (on AMD processors it is twice as fast).
#pragma once

#include <ATen/ATen.h>

namespace d2g::model {

// Whether OneDnnLinear pays for this input: fp32 on the CPU and not tiny.
bool UseOneDnnLinear(const at::Tensor& x);

// at::linear within float error: x [..., in], weight [out, in], bias [out] or undefined. Both
// gradients go through oneDNN too and can be differentiated again.
at::Tensor OneDnnLinear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

}  // namespace d2g::model

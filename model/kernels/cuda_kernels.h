// Fused CUDA kernels for inference, the counterpart of cpu_kernels.h. In builds without D2G_CUDA,
// or without a CUDA compiler, UseCudaKernels is always false.
#pragma once

#include <ATen/ATen.h>

namespace d2g::model {

// Gradients are off and x is a picture on a GPU, channels last, in fp32, fp16 or bf16, of which
// FusedCudaGroupNorm takes that many groups.
bool UseCudaKernels(const at::Tensor& x, int64_t groups);

// What FusedGroupNorm of cpu_kernels.h computes, sums in fp32, on x's current stream. weight, bias
// and shift in x's dtype.
at::Tensor FusedCudaGroupNorm(const at::Tensor& x, int64_t groups, const at::Tensor& weight,
                              const at::Tensor& bias, double eps, const at::Tensor& shift,
                              bool silu);

}  // namespace d2g::model

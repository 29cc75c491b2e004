#include "model/kernels/cuda_kernels.h"

#ifdef D2G_CUDA_KERNELS
#include <ATen/core/grad_mode.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "model/kernels/channels_last.h"
#include "model/kernels/cuda/group_norm_nhwc.h"
#endif

namespace d2g::model {

#ifdef D2G_CUDA_KERNELS

namespace {

// Compute capability 8.0, the oldest that the kernels are compiled for (cmake/Cuda.cmake).
constexpr int kOldestMajor = 8;

}  // namespace

bool UseCudaKernels(const at::Tensor& x, int64_t groups) {
  const at::ScalarType type = x.scalar_type();
  return !at::GradMode::is_enabled() && x.is_cuda() && IsChannelsLast(x) &&
         (type == at::kFloat || type == at::kHalf || type == at::kBFloat16) &&
         cuda::TakesChannels(x.size(1), groups) &&
         at::cuda::getDeviceProperties(x.get_device())->major >= kOldestMajor;
}

at::Tensor FusedCudaGroupNorm(const at::Tensor& x, int64_t groups, const at::Tensor& weight,
                              const at::Tensor& bias, double eps, const at::Tensor& shift,
                              bool silu) {
  const c10::cuda::CUDAGuard on_device(x.device());
  at::Tensor out = at::empty_like(x);
  const at::Tensor shifts = shift.defined() ? shift.to(x.scalar_type()).contiguous() : shift;
  const int64_t points = x.size(2) * x.size(3);
  const at::Tensor partial = at::empty({cuda::PartialFloats(x.size(0), points, groups)},
                                       x.options().dtype(at::kFloat).memory_format(std::nullopt));
  cuda::GroupNormNhwc norm{};
  norm.x = x.const_data_ptr();
  norm.out = out.mutable_data_ptr();
  norm.weight = weight.const_data_ptr();
  norm.bias = bias.const_data_ptr();
  norm.shift = shift.defined() ? shifts.const_data_ptr() : nullptr;
  norm.shift_stride = shift.defined() && shifts.size(0) > 1 ? x.size(1) : 0;
  norm.partial = partial.mutable_data_ptr<float>();
  norm.batch = x.size(0);
  norm.points = points;
  norm.channels = x.size(1);
  norm.groups = groups;
  norm.eps = static_cast<float>(eps);
  norm.silu = silu;
  norm.scalar = x.scalar_type() == at::kHalf       ? cuda::Scalar::kHalf
                : x.scalar_type() == at::kBFloat16 ? cuda::Scalar::kBfloat16
                                                   : cuda::Scalar::kFloat;
  const char* wrong = cuda::RunGroupNormNhwc(norm, c10::cuda::getCurrentCUDAStream().stream());
  TORCH_CHECK(wrong == nullptr, "group norm on ", x.device(), ": ", wrong);
  return out;
}

#else

bool UseCudaKernels(const at::Tensor&, int64_t) { return false; }

at::Tensor FusedCudaGroupNorm(const at::Tensor& x, int64_t, const at::Tensor&, const at::Tensor&,
                              double, const at::Tensor&, bool) {
  TORCH_CHECK(false, "group norm on ", x.device(), ": this build has no CUDA kernels");
}

#endif

}  // namespace d2g::model

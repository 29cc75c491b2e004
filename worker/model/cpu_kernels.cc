#include "worker/model/cpu_kernels.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "worker/model/simd_loops.h"

namespace d2g::model {

bool UseCpuKernels(const at::Tensor& x) {
  return !at::GradMode::is_enabled() && x.is_cpu() && x.scalar_type() == at::kFloat;
}

at::Tensor FusedGroupNorm(const at::Tensor& x, int64_t groups, const at::Tensor& weight,
                          const at::Tensor& bias, double eps, const at::Tensor& shift, bool silu) {
  const at::Tensor in = x.contiguous();
  at::Tensor out = at::empty_like(in);
  const int64_t batch = in.size(0), channels = in.size(1);
  const int64_t sample = in.numel() / std::max<int64_t>(batch, 1);
  const NormShape shape{groups, channels / groups, sample / channels};
  const at::Tensor shifts = shift.defined() ? shift.contiguous() : at::Tensor();
  const float* shift_data = shift.defined() ? shifts.const_data_ptr<float>() : nullptr;
  const int64_t shift_stride = shift.defined() && shifts.size(0) > 1 ? channels : 0;
  const float* from = in.const_data_ptr<float>();
  float* to = out.mutable_data_ptr<float>();
  const float* w = weight.const_data_ptr<float>();
  const float* b = bias.const_data_ptr<float>();
  at::parallel_for(0, batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      GroupNormSample(from + n * sample, to + n * sample, shape, w, b,
                      shift_data == nullptr ? nullptr : shift_data + n * shift_stride,
                      static_cast<float>(eps), silu);
    }
  });
  return out;
}

at::Tensor FusedGeglu(const at::Tensor& x) {
  const at::Tensor in = x.contiguous();
  std::vector<int64_t> shape = in.sizes().vec();
  const int64_t width = shape.back() / 2;
  shape.back() = width;
  at::Tensor out = at::empty(shape, in.options());
  const float* from = in.const_data_ptr<float>();
  float* to = out.mutable_data_ptr<float>();
  const int64_t rows = width == 0 ? 0 : out.numel() / width;
  at::parallel_for(0, rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      GegluRow(from + row * 2 * width, to + row * width, width);
    }
  });
  return out;
}

at::Tensor SmallAttention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const int64_t batch = q.size(0), heads = q.size(1), width = q.size(3);
  at::Tensor out = at::empty({batch, q.size(2), heads * width}, q.options());
  const AttentionShape shape{q.size(2),   k.size(2),   width,        q.stride(2),
                             k.stride(2), v.stride(2), heads * width};
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(width)));
  const float* q_data = q.const_data_ptr<float>();
  const float* k_data = k.const_data_ptr<float>();
  const float* v_data = v.const_data_ptr<float>();
  float* out_data = out.mutable_data_ptr<float>();
  at::parallel_for(0, batch * heads, 8, [&](int64_t begin, int64_t end) {
    std::vector<float> work(static_cast<size_t>(AttentionWork(shape.keys, width)));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / heads, h = i % heads;
      AttendHead(q_data + b * q.stride(0) + h * q.stride(1),
                 k_data + b * k.stride(0) + h * k.stride(1),
                 v_data + b * v.stride(0) + h * v.stride(1),
                 out_data + b * out.stride(0) + h * width, shape, scale, work.data());
    }
  });
  return out;
}

}  // namespace d2g::model

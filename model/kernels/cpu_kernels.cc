#include "model/kernels/cpu_kernels.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "model/kernels/attention_loops.h"
#include "model/kernels/channels_last.h"
#include "model/kernels/norm_loops.h"
#include "model/kernels/simd_loops.h"

namespace d2g::model {

namespace {

// A thread's share of values, below which another thread does not pay.
constexpr int64_t kWorthThreads = 32'768;
constexpr int64_t kQueriesWorthThreads = 32;

}  // namespace

bool UseCpuKernels(const at::Tensor& x) {
  return !at::GradMode::is_enabled() && x.is_cpu() && x.scalar_type() == at::kFloat;
}

namespace {

struct NormInput {
  const float* x;
  float* out;
  const float* weight;
  const float* bias;
  const float* shift;    // of the first sample, or null
  int64_t shift_stride;  // from one sample to the next
  NormShape shape;
  float eps;
  bool silu;

  int64_t channels() const { return shape.groups * shape.channels; }
  int64_t sample() const { return channels() * shape.area; }
  const float* ShiftOf(int64_t n) const {
    return shift == nullptr ? nullptr : shift + n * shift_stride;
  }
};

// Samples [begin, end), channels last.
void NormPointsOfSamples(const NormInput& in, int64_t begin, int64_t end) {
  const int64_t channels = in.channels();
  std::vector<double> sums(static_cast<size_t>(2 * channels));
  std::vector<float> factors(static_cast<size_t>(2 * channels));
  for (int64_t n = begin; n < end; ++n) {
    const float* x = in.x + n * in.sample();
    std::fill(sums.begin(), sums.end(), 0.0);
    AddPointSums(x, x, in.shape.area, channels, sums.data());
    FinishPointSums(sums.data(), x, in.shape, in.weight, in.bias, in.ShiftOf(n), in.eps,
                    factors.data(), factors.data() + channels);
    ScalePoints(x, in.out + n * in.sample(), in.shape.area, channels, factors.data(),
                factors.data() + channels, in.silu);
  }
}

// One sample, its points shared among the threads.
void NormPointsInThreads(const NormInput& in, int64_t n, int64_t parts) {
  const int64_t channels = in.channels(), area = in.shape.area;
  const int64_t part = (area + parts - 1) / parts;
  const float* x = in.x + n * in.sample();
  std::vector<double> sums(static_cast<size_t>(2 * channels * parts));
  std::vector<float> factors(static_cast<size_t>(2 * channels));
  auto for_each_part = [&](auto&& f) {
    at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t first = std::min(area, i * part);
        f(i, first, std::min(area, first + part) - first);
      }
    });
  };
  for_each_part([&](int64_t i, int64_t first, int64_t points) {
    AddPointSums(x + first * channels, x, points, channels, sums.data() + 2 * channels * i);
  });
  for (int64_t i = 1; i < parts; ++i) {
    for (int64_t c = 0; c < 2 * channels; ++c) {
      sums[static_cast<size_t>(c)] += sums[static_cast<size_t>(2 * channels * i + c)];
    }
  }
  FinishPointSums(sums.data(), x, in.shape, in.weight, in.bias, in.ShiftOf(n), in.eps,
                  factors.data(), factors.data() + channels);
  for_each_part([&](int64_t, int64_t first, int64_t points) {
    ScalePoints(x + first * channels, in.out + n * in.sample() + first * channels, points, channels,
                factors.data(), factors.data() + channels, in.silu);
  });
}

}  // namespace

at::Tensor FusedGroupNorm(const at::Tensor& x, int64_t groups, const at::Tensor& weight,
                          const at::Tensor& bias, double eps, const at::Tensor& shift, bool silu) {
  const bool channels_last = IsChannelsLast(x);
  const at::Tensor in = channels_last ? x : x.contiguous();
  at::Tensor out = at::empty_like(in);
  const int64_t batch = in.size(0), channels = in.size(1);
  const int64_t sample = in.numel() / std::max<int64_t>(batch, 1);
  const at::Tensor shifts = shift.defined() ? shift.contiguous() : at::Tensor();
  const NormInput input{in.const_data_ptr<float>(),
                        out.mutable_data_ptr<float>(),
                        weight.const_data_ptr<float>(),
                        bias.const_data_ptr<float>(),
                        shift.defined() ? shifts.const_data_ptr<float>() : nullptr,
                        shift.defined() && shifts.size(0) > 1 ? channels : 0,
                        {groups, channels / groups, sample / channels},
                        static_cast<float>(eps),
                        silu};
  const int64_t threads = at::in_parallel_region() ? 1 : at::get_num_threads();
  if (channels_last && batch < threads && sample >= kWorthThreads) {
    for (int64_t n = 0; n < batch; ++n) NormPointsInThreads(input, n, threads);
    return out;
  }
  const int64_t grain = std::max<int64_t>(1, kWorthThreads / std::max<int64_t>(sample, 1));
  at::parallel_for(0, batch, grain, [&](int64_t begin, int64_t end) {
    if (channels_last) {
      NormPointsOfSamples(input, begin, end);
      return;
    }
    for (int64_t n = begin; n < end; ++n) {
      GroupNormSample(input.x + n * sample, input.out + n * sample, input.shape, input.weight,
                      input.bias, input.ShiftOf(n), input.eps, silu);
    }
  });
  return out;
}

at::Tensor FusedLayerNorm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                          double eps) {
  const at::Tensor in = x.contiguous();
  at::Tensor out = at::empty_like(in);
  const int64_t width = in.size(-1);
  const int64_t rows = in.numel() / std::max<int64_t>(width, 1);
  const float* from = in.const_data_ptr<float>();
  float* to = out.mutable_data_ptr<float>();
  const float* w = weight.defined() ? weight.const_data_ptr<float>() : nullptr;
  const float* b = bias.defined() ? bias.const_data_ptr<float>() : nullptr;
  const int64_t grain = std::max<int64_t>(1, kWorthThreads / std::max<int64_t>(width, 1));
  at::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    LayerNormRows(from + begin * width, to + begin * width, end - begin, width, w, b,
                  static_cast<float>(eps));
  });
  return out;
}

at::Tensor JoinChannels(const at::Tensor& x, const at::Tensor& y) {
  const int64_t ours = x.size(1), theirs = y.size(1), channels = ours + theirs;
  at::Tensor out = at::empty({x.size(0), channels, x.size(2), x.size(3)},
                             x.options().memory_format(at::MemoryFormat::ChannelsLast));
  const float* first = x.const_data_ptr<float>();
  const float* second = y.const_data_ptr<float>();
  float* to = out.mutable_data_ptr<float>();
  const int64_t points = x.size(0) * x.size(2) * x.size(3);
  const int64_t grain = std::max<int64_t>(1, kWorthThreads / std::max<int64_t>(channels, 1));
  at::parallel_for(0, points, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::copy_n(first + i * ours, ours, to + i * channels);
      std::copy_n(second + i * theirs, theirs, to + i * channels + ours);
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

at::Tensor FusedAttention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                          const at::Tensor& mask) {
  auto rows = [](const at::Tensor& x) { return x.stride(3) == 1 ? x : x.contiguous(); };
  const at::Tensor q = rows(query), k = rows(key), v = rows(value);
  const int64_t batch = q.size(0), heads = q.size(1), queries = q.size(2), width = q.size(3);
  at::Tensor out = at::empty({batch, queries, heads * width}, q.options());
  const at::Tensor added = mask.defined() ? mask.contiguous() : mask;
  const float* mask_data = mask.defined() ? added.const_data_ptr<float>() : nullptr;
  const AttentionShape shape{queries,     k.size(2),   width,         q.stride(2),
                             k.stride(2), v.stride(2), heads * width, mask_data};
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(width)));
  const float* q_data = q.const_data_ptr<float>();
  const float* k_data = k.const_data_ptr<float>();
  const float* v_data = v.const_data_ptr<float>();
  float* out_data = out.mutable_data_ptr<float>();
  // Heads are shared among the threads, and the queries of each when the heads are too few.
  const int64_t all = batch * heads, threads = at::in_parallel_region() ? 1 : at::get_num_threads();
  const int64_t parts = std::clamp<int64_t>(threads / std::max<int64_t>(all, 1), 1,
                                            std::max<int64_t>(1, queries / kQueriesWorthThreads));
  const int64_t part = (queries + parts - 1) / parts;
  const int64_t grain = std::max<int64_t>(
      1, kWorthThreads / std::max<int64_t>(1, shape.keys * width + part * shape.keys));
  at::parallel_for(0, all * parts, grain, [&](int64_t begin, int64_t end) {
    const at::Tensor work = at::empty({AttentionWork(shape)}, q.options());
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / parts / heads, h = i / parts % heads, first = i % parts * part;
      AttendHead(
          q_data + b * q.stride(0) + h * q.stride(1), k_data + b * k.stride(0) + h * k.stride(1),
          v_data + b * v.stride(0) + h * v.stride(1), out_data + b * out.stride(0) + h * width,
          shape, scale, first, std::min(queries, first + part), work.mutable_data_ptr<float>());
    }
  });
  return out;
}

}  // namespace d2g::model

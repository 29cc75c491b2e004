#include "model/kernels/norm_loops.h"

#include "model/kernels/simd_lanes.h"

namespace d2g::model {

namespace {

// So many points are summed in float before the sums go to double.
constexpr int64_t kPointsAtOnce = 64;
constexpr int64_t kVectorsAtOnce = 4;
// Likewise so many values of one channel.
constexpr int64_t kValuesAtOnce = 4096;

[[gnu::always_inline]] inline float Silu(float x) { return x / (1.0f + Exp(-x)); }

// Sum of f(x - offset of its channel) over one group, f the identity or the square. The offset is
// `centre` minus the channel's shift.
template <bool kSquare>
[[gnu::always_inline]] inline double GroupSum(const float* in, int64_t channels, int64_t area,
                                              const float* shift, float centre) {
  double sum = 0;
  for (int64_t c = 0; c < channels; ++c) {
    const float* row = in + c * area;
    const float offset = centre - (shift == nullptr ? 0.0f : shift[c]);
    for (int64_t begin = 0; begin < area; begin += kValuesAtOnce) {
      const int64_t end = std::min(area, begin + kValuesAtOnce);
      float part = 0;
#pragma omp simd reduction(+ : part)
      for (int64_t i = begin; i < end; ++i) {
        const float value = row[i] - offset;
        part += kSquare ? value * value : value;
      }
      sum += part;
    }
  }
  return sum;
}

// AddPointSums for kVectors vectors of channels and at most kPointsAtOnce points.
template <int64_t kVectors>
[[gnu::always_inline]] inline void AddBlock(const float* x, const float* first_point,
                                            int64_t points, int64_t channels, double* sums) {
  Float8 pivot[kVectors], plain[kVectors] = {}, square[kVectors] = {};
  for (int64_t v = 0; v < kVectors; ++v) pivot[v] = Load<Float8>(first_point + v * kLanes<Float8>);
  for (int64_t i = 0; i < points; ++i) {
    for (int64_t v = 0; v < kVectors; ++v) {
      const Float8 value = Load<Float8>(x + i * channels + v * kLanes<Float8>) - pivot[v];
      plain[v] += value;
      square[v] += value * value;
    }
  }
  for (int64_t v = 0; v < kVectors; ++v) {
    for (int64_t lane = 0; lane < kLanes<Float8>; ++lane) {
      sums[2 * (v * kLanes<Float8> + lane)] += plain[v][lane];
      sums[2 * (v * kLanes<Float8> + lane) + 1] += square[v][lane];
    }
  }
}

}  // namespace

D2G_VECTORISED void GroupNormSample(const float* x, float* out, NormShape shape,
                                    const float* weight, const float* bias, const float* shift,
                                    float eps, bool silu) {
  const int64_t size = shape.channels * shape.area;
  for (int64_t g = 0; g < shape.groups; ++g) {
    const float* in = x + g * size;
    float* to = out + g * size;
    const int64_t first = g * shape.channels;
    const float* shifts = shift == nullptr ? nullptr : shift + first;
    const double count = static_cast<double>(size);
    const float mean =
        static_cast<float>(GroupSum<false>(in, shape.channels, shape.area, shifts, 0.0f) / count);
    const double variance = GroupSum<true>(in, shape.channels, shape.area, shifts, mean) / count;
    const float inverse = 1.0f / std::sqrt(static_cast<float>(variance) + eps);
    for (int64_t c = 0; c < shape.channels; ++c) {
      const float* row = in + c * shape.area;
      float* target = to + c * shape.area;
      const float scale = inverse * weight[first + c];
      const float offset =
          bias[first + c] - scale * (mean - (shift == nullptr ? 0.0f : shift[first + c]));
      if (silu) {
#pragma omp simd
        for (int64_t i = 0; i < shape.area; ++i) target[i] = Silu(row[i] * scale + offset);
      } else {
#pragma omp simd
        for (int64_t i = 0; i < shape.area; ++i) target[i] = row[i] * scale + offset;
      }
    }
  }
}

D2G_VECTORISED void AddPointSums(const float* x, const float* first_point, int64_t points,
                                 int64_t channels, double* sums) {
  for (int64_t begin = 0; begin < points; begin += kPointsAtOnce) {
    const int64_t count = std::min(kPointsAtOnce, points - begin);
    const float* from = x + begin * channels;
    int64_t c = 0;
    for (; c + kVectorsAtOnce * kLanes<Float8> <= channels; c += kVectorsAtOnce * kLanes<Float8>) {
      AddBlock<kVectorsAtOnce>(from + c, first_point + c, count, channels, sums + 2 * c);
    }
    for (; c + kLanes<Float8> <= channels; c += kLanes<Float8>) {
      AddBlock<1>(from + c, first_point + c, count, channels, sums + 2 * c);
    }
    for (; c < channels; ++c) {
      for (int64_t i = 0; i < count; ++i) {
        const double value = from[i * channels + c] - first_point[c];
        sums[2 * c] += value;
        sums[2 * c + 1] += value * value;
      }
    }
  }
}

D2G_VECTORISED void FinishPointSums(const double* sums, const float* first_point, NormShape shape,
                                    const float* weight, const float* bias, const float* shift,
                                    float eps, float* scale, float* offset) {
  const double per_point = 1.0 / static_cast<double>(shape.area);
  const double per_channel = 1.0 / static_cast<double>(shape.channels);
  for (int64_t g = 0; g < shape.groups; ++g) {
    const int64_t first = g * shape.channels, last = first + shape.channels;
    auto channel_mean = [&](int64_t c) {
      return sums[2 * c] * per_point + first_point[c] + (shift == nullptr ? 0.0 : shift[c]);
    };
    double mean = 0;
    for (int64_t c = first; c < last; ++c) mean += channel_mean(c);
    mean *= per_channel;
    // The variance of a group is the mean variance of its channels and the variance of their means.
    double variance = 0;
    for (int64_t c = first; c < last; ++c) {
      const double inside = sums[2 * c] * per_point, apart = channel_mean(c) - mean;
      variance += sums[2 * c + 1] * per_point - inside * inside + apart * apart;
    }
    variance *= per_channel;
    const double inverse = 1.0 / std::sqrt((variance < 0 ? 0 : variance) + eps);
    for (int64_t c = first; c < last; ++c) {
      const double factor = inverse * weight[c];
      scale[c] = static_cast<float>(factor);
      offset[c] =
          static_cast<float>(bias[c] - factor * (mean - (shift == nullptr ? 0.0 : shift[c])));
    }
  }
}

D2G_VECTORISED void ScalePoints(const float* x, float* out, int64_t points, int64_t channels,
                                const float* scale, const float* offset, bool silu) {
  for (int64_t i = 0; i < points; ++i) {
    const float* from = x + i * channels;
    float* to = out + i * channels;
    if (silu) {
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) to[c] = Silu(from[c] * scale[c] + offset[c]);
    } else {
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) to[c] = from[c] * scale[c] + offset[c];
    }
  }
}

D2G_VECTORISED void LayerNormRows(const float* x, float* out, int64_t rows, int64_t width,
                                  const float* weight, const float* bias, float eps) {
  const float per_value = 1.0f / static_cast<float>(width);
  for (int64_t row = 0; row < rows; ++row) {
    const float* from = x + row * width;
    float* to = out + row * width;
    const auto mean = static_cast<float>(GroupSum<false>(from, 1, width, nullptr, 0.0f) *
                                         static_cast<double>(per_value));
    const auto variance = static_cast<float>(GroupSum<true>(from, 1, width, nullptr, mean) *
                                             static_cast<double>(per_value));
    const float inverse = 1.0f / std::sqrt(variance + eps);
    if (weight != nullptr && bias != nullptr) {
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) to[i] = (from[i] - mean) * inverse * weight[i] + bias[i];
    } else {
      for (int64_t i = 0; i < width; ++i) {
        to[i] = (from[i] - mean) * inverse * (weight == nullptr ? 1.0f : weight[i]) +
                (bias == nullptr ? 0.0f : bias[i]);
      }
    }
  }
}

}  // namespace d2g::model

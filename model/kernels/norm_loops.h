// The inner loops of norms over plain memory; see matrix_loops.h for how they are compiled.
#pragma once

#include <cstdint>

namespace d2g::model {

// One sample: `groups` groups of `channels` channels of `area` values.
struct NormShape {
  int64_t groups, channels, area;
};

// Group norm of one sample [groups, channels, area], then silu if asked for. shift has one value a
// channel, or is null.
void GroupNormSample(const float* x, float* out, NormShape shape, const float* weight,
                     const float* bias, const float* shift, float eps, bool silu);

// The same for a sample [area, groups * channels], in three steps, the first and the last of which
// may be split by points. `sums` has two values a channel: sums of x - x[0] and of its square, x[0]
// being the sample's first point. Adds those of `points` points that begin at `x`.
void AddPointSums(const float* x, const float* first_point, int64_t points, int64_t channels,
                  double* sums);
// What remains for each channel: out = x * scale + offset.
void FinishPointSums(const double* sums, const float* first_point, NormShape shape,
                     const float* weight, const float* bias, const float* shift, float eps,
                     float* scale, float* offset);
// out = x * scale + offset, then silu if asked for.
void ScalePoints(const float* x, float* out, int64_t points, int64_t channels, const float* scale,
                 const float* offset, bool silu);

// Layer norm of `rows` rows of `width` values; weight and bias may be null.
void LayerNormRows(const float* x, float* out, int64_t rows, int64_t width, const float* weight,
                   const float* bias, float eps);

}  // namespace d2g::model

#include "model/kernels/simd_loops.h"

#include <algorithm>
#include <cmath>

#include "model/kernels/simd_lanes.h"

namespace d2g::model {

namespace {

[[gnu::always_inline]] inline float Gelu(float x) {
  const float z = std::fabs(x) * 0.70710678118654752f;
  const float t = 1.0f / (1.0f + 0.3275911f * z);
  float p = 1.061405429f;
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const float tail = p * t * Exp(-z * z);  // 1 - erf(z)
  return x > 0 ? x * (1.0f - 0.5f * tail) : x * 0.5f * tail;
}

}  // namespace

D2G_VECTORISED void GegluRow(const float* x, float* out, int64_t width) {
  const float* gate = x + width;
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) out[i] = x[i] * Gelu(gate[i]);
}

}  // namespace d2g::model

#include "worker/model/simd_loops.h"

#include <algorithm>
#include <cmath>

#include "worker/model/simd_lanes.h"

namespace d2g::model {

namespace {

constexpr int64_t kQueriesAtOnce = 4;

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

int64_t AttentionWork(int64_t keys, int64_t width) {
  return width * RoundUpToLanes(keys) + keys * RoundUpToLanes(width) +
         kQueriesAtOnce * RoundUpToLanes(keys);
}

D2G_VECTORISED void AttendHead(const float* q, const float* k, const float* v, float* out,
                               AttentionShape s, float scale, float* work) {
  const int64_t keys = RoundUpToLanes(s.keys), width = RoundUpToLanes(s.width);
  float* k_columns = work;                     // [s.width, keys], zero beyond s.keys
  float* v_rows = k_columns + s.width * keys;  // [s.keys, width], zero beyond s.width
  float* scores = v_rows + s.keys * width;     // [kQueriesAtOnce, keys]
  for (int64_t d = 0; d < s.width; ++d) {
    for (int64_t j = 0; j < keys; ++j) {
      k_columns[d * keys + j] = j < s.keys ? k[j * s.k_stride + d] * scale : 0;
    }
  }
  for (int64_t j = 0; j < s.keys; ++j) {
    for (int64_t d = 0; d < width; ++d) {
      v_rows[j * width + d] = d < s.width ? v[j * s.v_stride + d] : 0;
    }
  }
  for (int64_t i = 0; i < s.queries; i += kQueriesAtOnce) {
    const float* query[kQueriesAtOnce];
    for (int64_t r = 0; r < kQueriesAtOnce; ++r) {
      query[r] = q + std::min(i + r, s.queries - 1) * s.q_stride;
    }
    for (int64_t j = 0; j < keys; j += kLanes) {
      Lanes a = {}, b = {}, c = {}, e = {};
      for (int64_t d = 0; d < s.width; ++d) {
        const Lanes column = Load(k_columns + d * keys + j);
        a += query[0][d] * column;
        b += query[1][d] * column;
        c += query[2][d] * column;
        e += query[3][d] * column;
      }
      Store(scores + j, a);
      Store(scores + keys + j, b);
      Store(scores + 2 * keys + j, c);
      Store(scores + 3 * keys + j, e);
    }
    float inverse[kQueriesAtOnce];
    for (int64_t r = 0; r < kQueriesAtOnce; ++r) {
      float* row = scores + r * keys;
      float largest = row[0];
      for (int64_t j = 1; j < s.keys; ++j) largest = std::max(largest, row[j]);
#pragma omp simd
      for (int64_t j = 0; j < keys; ++j) row[j] = Exp(row[j] - largest);
      float sum = 0;
      for (int64_t j = 0; j < s.keys; ++j) sum += row[j];
      inverse[r] = 1.0f / sum;
    }
    for (int64_t d = 0; d < width; d += kLanes) {
      Lanes a = {}, b = {}, c = {}, e = {};
      for (int64_t j = 0; j < s.keys; ++j) {
        const Lanes row = Load(v_rows + j * width + d);
        a += scores[j] * row;
        b += scores[keys + j] * row;
        c += scores[2 * keys + j] * row;
        e += scores[3 * keys + j] * row;
      }
      const Lanes sums[kQueriesAtOnce] = {a * inverse[0], b * inverse[1], c * inverse[2],
                                          e * inverse[3]};
      const int64_t lanes = std::min(kLanes, s.width - d);
      for (int64_t r = 0; r < std::min(kQueriesAtOnce, s.queries - i); ++r) {
        float* target = out + (i + r) * s.out_stride + d;
        if (lanes == kLanes) {
          Store(target, sums[r]);
        } else {
          for (int64_t lane = 0; lane < lanes; ++lane) target[lane] = sums[r][lane];
        }
      }
    }
  }
}

}  // namespace d2g::model

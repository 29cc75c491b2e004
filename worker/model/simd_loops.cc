#include "worker/model/simd_loops.h"

#include <algorithm>
#include <bit>
#include <cmath>

// One version for each instruction set, chosen at start: the build itself stays portable.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define D2G_VECTORISED __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define D2G_VECTORISED
#endif

namespace d2g::model {

namespace {

// Sixteen floats. The compiler splits it where the machine's registers are shorter.
constexpr int64_t kLanes = 16;
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));

[[gnu::always_inline]] inline Lanes Load(const float* from) {
  return *reinterpret_cast<const Lanes*>(from);
}
[[gnu::always_inline]] inline void Store(float* to, Lanes value) {
  *reinterpret_cast<Lanes*>(to) = value;
}
[[gnu::always_inline]] inline float Sum(Lanes value) {
  float sum = 0;
  for (int64_t i = 0; i < kLanes; ++i) sum += value[i];
  return sum;
}
int64_t RoundUp(int64_t value) { return (value + kLanes - 1) / kLanes * kLanes; }

constexpr int64_t kQueriesAtOnce = 4;

// e^x for |x| < 1e6 with a relative error of about 2 ulp (Cephes' expf): 2^n times a polynomial of
// the rest; NaN stays NaN. Only additions, multiplications and integer operations, so that loops
// over it vectorise (a floating-point clamp would become branches).
[[gnu::always_inline]] inline float Exp(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float shifted = x * 1.44269504088896341f + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t power = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kRound);
  const int32_t exponent = std::min(std::max(power, -127), 127) + 127;
  return p * std::bit_cast<float>(exponent << 23);
}

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

// Sum of f(x - offset of its channel) over one group, f the identity or the square. The offset is
// `centre` minus the channel's shift.
template <bool kSquare>
[[gnu::always_inline]] inline double GroupSum(const float* in, int64_t channels, int64_t area,
                                              const float* shift, float centre) {
  Lanes lanes = {};
  double rest = 0;
  for (int64_t c = 0; c < channels; ++c) {
    const float* row = in + c * area;
    const float offset = centre - (shift == nullptr ? 0.0f : shift[c]);
    Lanes channel = {};
    int64_t i = 0;
    for (; i + kLanes <= area; i += kLanes) {
      const Lanes value = Load(row + i) - offset;
      channel += kSquare ? value * value : value;
    }
    lanes += channel;
    for (; i < area; ++i) {
      const float value = row[i] - offset;
      rest += kSquare ? value * value : value;
    }
  }
  return rest + Sum(lanes);
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
        for (int64_t i = 0; i < shape.area; ++i) {
          const float y = row[i] * scale + offset;
          target[i] = y / (1.0f + Exp(-y));
        }
      } else {
#pragma omp simd
        for (int64_t i = 0; i < shape.area; ++i) target[i] = row[i] * scale + offset;
      }
    }
  }
}

D2G_VECTORISED void GegluRow(const float* x, float* out, int64_t width) {
  const float* gate = x + width;
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) out[i] = x[i] * Gelu(gate[i]);
}

int64_t AttentionWork(int64_t keys, int64_t width) {
  return width * RoundUp(keys) + keys * RoundUp(width) + kQueriesAtOnce * RoundUp(keys);
}

D2G_VECTORISED void AttendHead(const float* q, const float* k, const float* v, float* out,
                               AttentionShape s, float scale, float* work) {
  const int64_t keys = RoundUp(s.keys), width = RoundUp(s.width);
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

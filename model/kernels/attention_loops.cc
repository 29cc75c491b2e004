#include "model/kernels/attention_loops.h"

#include <algorithm>
#include <limits>

#include "model/kernels/simd_lanes.h"

namespace d2g::model {

namespace {

// Keys are packed in panels of so many columns and visited in blocks of so many keys, which a block
// of queries shares: all of it stays in the second cache.
constexpr int64_t kPanel = 48;
constexpr int64_t kKeysAtOnce = 8 * kPanel;
constexpr int64_t kQueriesAtOnce = 48;

int64_t PanelWidth(int64_t column, int64_t columns) {
  return RoundUpToLine(std::min(kPanel, columns - column));
}

// Scratch memory: keys [panel, width, columns of the panel], values [keys, value_width], and for a
// block of queries the queries [width], scores [kKeysAtOnce], sums [value_width] and three numbers
// each.
struct Work {
  Work(const AttentionShape& s, float* memory)
      : value_width(RoundUpToLine(s.width)),
        keys(memory),
        values(keys + s.width * RoundUpToLine(s.keys)),
        queries(values + s.keys * value_width),
        scores(queries + kQueriesAtOnce * s.width),
        sums(scores + kQueriesAtOnce * kKeysAtOnce),
        largest(sums + kQueriesAtOnce * value_width),
        total(largest + kQueriesAtOnce) {}

  // What all of them take together.
  static int64_t Floats(const AttentionShape& s) {
    const int64_t value_width = RoundUpToLine(s.width);
    return s.width * RoundUpToLine(s.keys) + s.keys * value_width +
           kQueriesAtOnce * (s.width + kKeysAtOnce + value_width + 2);
  }

  int64_t value_width;
  float *keys, *values, *queries, *scores, *sums, *largest, *total;
};

[[gnu::always_inline]] inline void PackHead(const float* k, const float* v, const AttentionShape& s,
                                            const Work& work) {
  for (int64_t column = 0; column < s.keys; column += kPanel) {
    const int64_t width = PanelWidth(column, s.keys);
    float* panel = work.keys + column * s.width;
    for (int64_t d = 0; d < s.width; ++d) {
      for (int64_t j = 0; j < width; ++j) {
        panel[d * width + j] = column + j < s.keys ? k[(column + j) * s.k_stride + d] : 0;
      }
    }
  }
  for (int64_t j = 0; j < s.keys; ++j) {
    for (int64_t d = 0; d < work.value_width; ++d) {
      work.values[j * work.value_width + d] = d < s.width ? v[j * s.v_stride + d] : 0;
    }
  }
}

// Scores of kRows queries from `row` for the `keys` keys from `first`.
template <typename V, int kRows, int kVectors>
[[gnu::always_inline]] inline void Score(const AttentionShape& s, const Work& work, int64_t row,
                                         int64_t first, int64_t keys) {
  for (int64_t column = first; column < first + keys; column += kPanel) {
    const int64_t width = PanelWidth(column, s.keys);
    const float* panel = work.keys + column * s.width;
    ForEachTile<V, kVectors>(width, [&](int64_t at, auto vectors) D2G_INLINE {
      constexpr int kTile = decltype(vectors)::value;
      V sums[kRows][kTile];
      TileSums(work.queries + row * s.width, s.width, panel + at, width, s.width, sums);
      float* to = work.scores + row * kKeysAtOnce + (column - first) + at;
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kTile; ++v) Store(to + r * kKeysAtOnce + v * kLanes<V>, sums[r][v]);
      }
    });
  }
}

// Turns one query's scores into weights; returns by what the sums made before must be multiplied.
template <typename V>
[[gnu::always_inline]] inline float Weigh(float* scores, const float* mask, int64_t keys,
                                          float& largest, float& total) {
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  // Its exponential is 0, which that of minus infinity is not.
  constexpr float kLeast = -200.0f;
  if (mask != nullptr) {
    for (int64_t j = 0; j < keys; ++j) scores[j] += mask[j];
  }
  for (int64_t j = keys; j < RoundUpToLine(keys); ++j) scores[j] = kNone;
  V lanes = V{} + kNone;
  for (int64_t j = 0; j < keys; j += kLanes<V>) lanes = Larger(Load<V>(scores + j), lanes);
  float peak = largest;
  for (int64_t i = 0; i < kLanes<V>; ++i) peak = std::max(peak, lanes[i]);
  if (peak == kNone) {
    // Nothing seen is allowed so far: no weight, and no largest score yet. What is not a number
    // reaches the result through the total, whatever comes after.
    for (int64_t j = 0; j < keys; ++j) {
      if (scores[j] != scores[j]) total = scores[j];
    }
    std::fill(scores, scores + keys, 0.0f);
    return 0;
  }
  const float before = largest - peak < kLeast ? 0.0f : Exp(largest - peak);
  largest = peak;
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < keys; ++j) {
    const float apart = scores[j] - peak;
    scores[j] = Exp(apart < kLeast ? kLeast : apart);
    sum += scores[j];
  }
  total = total * before + sum;
  return before;
}

// sums = sums * before + weights * values, for kRows queries from `row` and kTile vectors of
// columns from `column`.
template <typename V, int kRows, int kTile>
[[gnu::always_inline]] inline void AddTile(const Work& work, int64_t row, int64_t column,
                                           int64_t first, int64_t keys, const float* before) {
  V sums[kRows][kTile];
  TileSums(work.scores + row * kKeysAtOnce, kKeysAtOnce,
           work.values + first * work.value_width + column, work.value_width, keys, sums);
  float* to = work.sums + row * work.value_width + column;
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kTile; ++v) {
      float* target = to + r * work.value_width + v * kLanes<V>;
      Store(target, Load<V>(target) * before[r] + sums[r][v]);
    }
  }
}

// The same for all columns but a last half line that only pads: Stable Diffusion's heads of 40 are
// two and a half.
template <typename V, int kRows, int kVectors>
[[gnu::always_inline]] inline void AddValues(const AttentionShape& s, const Work& work, int64_t row,
                                             int64_t first, int64_t keys, const float* before) {
  const bool half = kLanes<V> >= kLine / 2 && work.value_width - s.width >= kLine / 2;
  const int64_t whole = work.value_width - (half ? kLine : 0);
  ForEachTile<V, kVectors>(whole, [&](int64_t column, auto vectors) D2G_INLINE {
    AddTile<V, kRows, decltype(vectors)::value>(work, row, column, first, keys, before);
  });
  if constexpr (kLanes<V> >= kLine / 2) {
    if (half) AddTile<Float8, kRows, 1>(work, row, whole, first, keys, before);
  }
}

template <typename V, int kRows, int kVectors>
[[gnu::always_inline]] inline void AttendRows(const AttentionShape& s, const Work& work,
                                              int64_t query, int64_t row, int64_t first,
                                              int64_t keys) {
  Score<V, kRows, kVectors>(s, work, row, first, keys);
  float before[kRows];
  for (int r = 0; r < kRows; ++r) {
    const float* mask = s.mask == nullptr ? nullptr : s.mask + (query + r) * s.keys + first;
    before[r] = Weigh<V>(work.scores + (row + r) * kKeysAtOnce, mask, keys, work.largest[row + r],
                         work.total[row + r]);
  }
  AddValues<V, kRows, kVectors>(s, work, row, first, keys, before);
}

template <typename V, int kRows, int kVectors>
[[gnu::always_inline]] inline void AttendLoop(const float* q, const float* k, const float* v,
                                              float* out, const AttentionShape& s, float scale,
                                              int64_t first_query, int64_t last_query,
                                              float* memory) {
  const Work work(s, memory);
  PackHead(k, v, s, work);
  for (int64_t query = first_query; query < last_query; query += kQueriesAtOnce) {
    const int64_t rows = std::min(kQueriesAtOnce, last_query - query);
    for (int64_t r = 0; r < rows; ++r) {
      const float* from = q + (query + r) * s.q_stride;
      for (int64_t d = 0; d < s.width; ++d) work.queries[r * s.width + d] = from[d] * scale;
      work.largest[r] = -std::numeric_limits<float>::infinity();
      work.total[r] = 0;
    }
    std::fill_n(work.sums, rows * work.value_width, 0.0f);
    for (int64_t first = 0; first < s.keys; first += kKeysAtOnce) {
      const int64_t keys = std::min(kKeysAtOnce, s.keys - first);
      int64_t row = 0;
      for (; row + kRows <= rows; row += kRows) {
        AttendRows<V, kRows, kVectors>(s, work, query + row, row, first, keys);
      }
      for (; row < rows; ++row) {
        AttendRows<V, 1, kVectors>(s, work, query + row, row, first, keys);
      }
    }
    for (int64_t r = 0; r < rows; ++r) {
      const float inverse = 1.0f / work.total[r];
      float* to = out + (query + r) * s.out_stride;
      for (int64_t d = 0; d < s.width; ++d) to[d] = work.sums[r * work.value_width + d] * inverse;
    }
  }
}

#ifdef D2G_AVX512
D2G_AVX512 void AttendAvx512(const float* q, const float* k, const float* v, float* out,
                             const AttentionShape& s, float scale, int64_t first, int64_t last,
                             float* work) {
  AttendLoop<Float16, 8, 3>(q, k, v, out, s, scale, first, last, work);
}
D2G_AVX2 void AttendAvx2(const float* q, const float* k, const float* v, float* out,
                         const AttentionShape& s, float scale, int64_t first, int64_t last,
                         float* work) {
  AttendLoop<Float8, 6, 2>(q, k, v, out, s, scale, first, last, work);
}
#endif
void AttendPortable(const float* q, const float* k, const float* v, float* out,
                    const AttentionShape& s, float scale, int64_t first, int64_t last,
                    float* work) {
  AttendLoop<Float4, 2, 4>(q, k, v, out, s, scale, first, last, work);
}

}  // namespace

int64_t AttentionWork(const AttentionShape& shape) { return Work::Floats(shape); }

void AttendHead(const float* q, const float* k, const float* v, float* out,
                const AttentionShape& shape, float scale, int64_t first, int64_t last, float* work,
                [[maybe_unused]] Instructions instructions) {
#ifdef D2G_AVX512
  if (instructions == Instructions::kAvx512) {
    AttendAvx512(q, k, v, out, shape, scale, first, last, work);
    return;
  }
  if (instructions == Instructions::kAvx2) {
    AttendAvx2(q, k, v, out, shape, scale, first, last, work);
    return;
  }
#endif
  AttendPortable(q, k, v, out, shape, scale, first, last, work);
}

}  // namespace d2g::model

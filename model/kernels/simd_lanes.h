// Vectors of floats, for the loops that are compiled away from LibTorch.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

// One version for each instruction set, chosen at start: the build itself stays portable.
// D2G_VECTORISED is for loops over values. Loops that name their vectors are written out for
// D2G_AVX512 (32 registers of 16 floats), D2G_AVX2 (16 of 8 floats) and neither (16 of 4 floats): a
// vector longer than the machine's registers would be kept in memory.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define D2G_VECTORISED __attribute__((target_clones("avx512f", "avx2", "default")))
#define D2G_AVX512 __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")))
#define D2G_AVX2 __attribute__((target("avx2,fma")))
#else
#define D2G_VECTORISED
#endif
// On lambdas: they are compiled for the instructions of the function that they end up in.
#define D2G_INLINE __attribute__((always_inline))

namespace d2g::model {

typedef float Float16 __attribute__((vector_size(64)));
typedef float Float8 __attribute__((vector_size(32)));
typedef float Float4 __attribute__((vector_size(16)));

template <typename V>
inline constexpr int64_t kLanes = sizeof(V) / sizeof(float);

// Rows of packed matrices are padded with zeros to a multiple of this many floats, a cache line.
inline constexpr int64_t kLine = 16;
constexpr int64_t RoundUpToLine(int64_t value) { return (value + kLine - 1) / kLine * kLine; }

// From and to memory that need not be aligned.
template <typename V>
[[gnu::always_inline]] inline V Load(const float* from) {
  typedef V InMemory __attribute__((aligned(4), may_alias));
  return *reinterpret_cast<const InMemory*>(from);
}
template <typename V>
[[gnu::always_inline]] inline void Store(float* to, V value) {
  typedef V InMemory __attribute__((aligned(4), may_alias));
  *reinterpret_cast<InMemory*>(to) = value;
}
// The first `count` lanes (any number), 0 beyond them; and the way back.
template <typename V>
[[gnu::always_inline]] inline V LoadSome(const float* from, int64_t count) {
  if (count >= kLanes<V>) return Load<V>(from);
  V value = {};
  for (int64_t i = 0; i < kLanes<V>; ++i) value[i] = i < count ? from[i] : 0;
  return value;
}
template <typename V>
[[gnu::always_inline]] inline void StoreSome(float* to, V value, int64_t count) {
  if (count >= kLanes<V>) {
    Store(to, value);
    return;
  }
  for (int64_t i = 0; i < count; ++i) to[i] = value[i];
}

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

// Lane by lane the larger; the second where they do not compare.
template <typename V>
[[gnu::always_inline]] inline V Larger(V a, V b) {
  return a > b ? a : b;
}

// sums[r][v] = sum over k < count of a[r][k] * b[k][v], kRows rows of `a` with kVectors vectors of
// columns of `b`. All of `sums` should fit into registers.
template <typename V, int kRows, int kVectors>
[[gnu::always_inline]] inline void TileSums(const float* a, int64_t a_stride, const float* b,
                                            int64_t b_stride, int64_t count,
                                            V (&sums)[kRows][kVectors]) {
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) sums[r][v] = V{};
  }
#pragma GCC unroll 4
  for (int64_t k = 0; k < count; ++k) {
    V columns[kVectors];
    for (int v = 0; v < kVectors; ++v) columns[v] = Load<V>(b + v * kLanes<V>);
    for (int r = 0; r < kRows; ++r) {
      const float factor = a[r * a_stride + k];
      for (int v = 0; v < kVectors; ++v) sums[r][v] += factor * columns[v];
    }
    b += b_stride;
  }
}

// Calls tile(column, number of vectors, as a type) for tiles of at most kVectors vectors that cover
// `width` columns, a multiple of kLine.
template <typename V, int kVectors, typename F>
[[gnu::always_inline]] inline void ForEachTile(int64_t width, F&& tile) {
  constexpr int64_t kWhole = kVectors * kLanes<V>;
  static_assert(kLine % kWhole == 0 || kLanes<V> == kLine);
  int64_t done = 0;
  for (; done + kWhole <= width; done += kWhole) {
    tile(done, std::integral_constant<int, kVectors>());
  }
  if constexpr (kWhole > kLine) {
    if (width - done == 2 * kLine) tile(done, std::integral_constant<int, 2>());
    if (width - done == kLine) tile(done, std::integral_constant<int, 1>());
  }
}

}  // namespace d2g::model

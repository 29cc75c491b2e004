// Sixteen floats at once, for the loops that are compiled away from LibTorch. The compiler splits
// them where the machine's registers are shorter.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

// One version for each instruction set, chosen at start: the build itself stays portable.
// D2G_VECTORISED is for loops over values. Loops whose blocking depends on the number of registers
// are written out for D2G_AVX512 (32 of 16 floats), D2G_AVX2 (16 of 8 floats) and neither.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define D2G_VECTORISED __attribute__((target_clones("avx512f", "avx2", "default")))
#define D2G_AVX512 __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")))
#define D2G_AVX2 __attribute__((target("avx2,fma")))
#else
#define D2G_VECTORISED
#endif

namespace d2g::model {

inline constexpr int64_t kLanes = 16;
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
// The first `count` lanes, 0 beyond them; and the way back.
[[gnu::always_inline]] inline Lanes LoadSome(const float* from, int64_t count) {
  Lanes value = {};
  for (int64_t i = 0; i < kLanes; ++i) value[i] = i < count ? from[i] : 0;
  return value;
}
[[gnu::always_inline]] inline void StoreSome(float* to, Lanes value, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = value[i];
}

constexpr int64_t RoundUpToLanes(int64_t value) { return (value + kLanes - 1) / kLanes * kLanes; }

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

// Of two lanes the larger; the second where they do not compare.
[[gnu::always_inline]] inline Lanes Larger(Lanes a, Lanes b) { return a > b ? a : b; }

// sums[r][v] = sum over k < count of a[r][k] * b[k][v], kRows rows of `a` with kVectors vectors of
// columns of `b`. All of `sums` should fit into registers.
template <int kRows, int kVectors>
[[gnu::always_inline]] inline void TileSums(const float* a, int64_t a_stride, const float* b,
                                            int64_t b_stride, int64_t count,
                                            Lanes (&sums)[kRows][kVectors]) {
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) sums[r][v] = Lanes{};
  }
#pragma GCC unroll 4
  for (int64_t k = 0; k < count; ++k) {
    Lanes columns[kVectors];
    for (int v = 0; v < kVectors; ++v) columns[v] = Load(b + v * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const float factor = a[r * a_stride + k];
      for (int v = 0; v < kVectors; ++v) sums[r][v] += factor * columns[v];
    }
    b += b_stride;
  }
}

// What the machine can do; see D2G_AVX512.
enum class Instructions { kPortable, kAvx2, kAvx512 };
inline Instructions MachineInstructions() {
#ifdef D2G_AVX512
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")) {
    return Instructions::kAvx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Instructions::kAvx2;
#endif
  return Instructions::kPortable;
}

}  // namespace d2g::model

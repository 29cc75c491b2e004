#include "services/dataset/noise.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>

#include "services/dataset/random.h"

namespace d2g::dataset {
namespace {

constexpr double kLn2 = 0x1.62e42fefa39efp-1;
constexpr double kSqrtHalf = 0x1.6a09e667f3bcdp-1;
constexpr double kHalfPi = 0x1.921fb54442d18p+0;

// Natural logarithm of a normal positive double: the exponent's part plus 2 artanh(s) as a series
// in s = (m - 1) / (m + 1), the mantissa m being in [sqrt(1/2), sqrt(2)). Error below 4e-16.
double Log(double value) {
  const uint64_t bits = std::bit_cast<uint64_t>(value);
  int exponent = static_cast<int>(bits >> 52) - 1023;
  double mantissa = std::bit_cast<double>((bits & 0x000FFFFFFFFFFFFF) | 0x3FF0000000000000);
  if (mantissa > 2 * kSqrtHalf) {
    mantissa *= 0.5;
    ++exponent;
  }
  const double s = (mantissa - 1.0) / (mantissa + 1.0);
  const double s2 = s * s;
  double sum = 1.0 / 23.0;
  for (int odd = 21; odd >= 1; odd -= 2) sum = sum * s2 + 1.0 / odd;
  return exponent * kLn2 + 2.0 * s * sum;
}

struct SinCos {
  double sin;
  double cos;
};

// Sine and cosine of (word + 1/2) / 2^32 turns. The top two bits name the quadrant; in it the angle
// is measured from the middle, where Taylor series of degree 17 and 16 err below 1e-16.
SinCos SinCosOfTurn(uint32_t word) {
  const double fraction = ((word & 0x3FFFFFFF) + 0.5) * 0x1p-30;
  const double a = (fraction - 0.5) * kHalfPi;
  const double a2 = a * a;
  double sin = 1.0;
  for (int n = 16; n >= 2; n -= 2) sin = 1.0 - sin * a2 / (n * (n + 1));
  sin = sin * a;
  double cos = 1.0;
  for (int n = 15; n >= 1; n -= 2) cos = 1.0 - cos * a2 / (n * (n + 1));
  const SinCos first{(cos + sin) * kSqrtHalf, (cos - sin) * kSqrtHalf};
  switch (word >> 30) {
    case 0:
      return first;
    case 1:
      return {first.cos, -first.sin};
    case 2:
      return {-first.sin, -first.cos};
    default:
      return {-first.cos, first.sin};
  }
}

// Box and Muller: two normal numbers from two words.
void NormalPair(uint32_t radius_word, uint32_t angle_word, float* out) {
  const double radius = std::sqrt(-2.0 * Log((radius_word + 0.5) * 0x1p-32));
  const SinCos turn = SinCosOfTurn(angle_word);
  out[0] = static_cast<float>(radius * turn.cos);
  out[1] = static_cast<float>(radius * turn.sin);
}

}  // namespace

void FillNoise(uint64_t seed, int64_t index, std::span<float> out) {
  PhiloxBlock counter{0, static_cast<uint32_t>(Purpose::kNoise), static_cast<uint32_t>(index),
                      static_cast<uint32_t>(static_cast<uint64_t>(index) >> 32)};
  std::array<float, 4> normal;
  for (size_t begin = 0; begin < out.size(); begin += 4) {
    const PhiloxBlock words = Philox4x32(counter, seed);
    ++counter[0];
    NormalPair(words[0], words[1], normal.data());
    NormalPair(words[2], words[3], normal.data() + 2);
    std::copy_n(normal.begin(), std::min<size_t>(4, out.size() - begin), out.begin() + begin);
  }
}

}  // namespace d2g::dataset

// The loops over plain memory against their definitions, in buffers that are exactly as long as
// they may use: the sanitizers see a step beyond. instructions_test.cc compares them with LibTorch.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <random>
#include <vector>

#include "model/kernels/attention_loops.h"
#include "model/kernels/instructions.h"
#include "model/kernels/matrix_loops.h"
#include "model/kernels/norm_loops.h"
#include "model/kernels/simd_loops.h"
#include "model/kernels/winograd_loops.h"

namespace d2g::model {
namespace {

using Floats = std::vector<float>;

Floats Random(int64_t count) {
  static std::mt19937 generator(7);
  std::normal_distribution<float> normal;
  Floats values(static_cast<size_t>(count));
  for (float& value : values) value = normal(generator);
  return values;
}

std::vector<Instructions> Runnable() {
  std::vector<Instructions> all = {Instructions::kPortable, Instructions::kAvx2,
                                   Instructions::kAvx512};
  std::erase_if(all, [](Instructions i) { return i > MachineInstructions(); });
  return all;
}

// max|a - b| / max|b|.
double Difference(const Floats& a, const std::vector<double>& b) {
  double worst = 0, largest = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    worst = std::max(worst, std::isfinite(a[i]) ? std::fabs(a[i] - b[i]) : 1e30);
    largest = std::max(largest, std::fabs(b[i]));
  }
  return worst / largest;
}

TEST(LoopsTest, ProductsOfRows) {
  for (const auto& [count, inner, columns] : std::vector<std::array<int64_t, 3>>{
           {1, 1, 1}, {5, 3, 7}, {17, 40, 49}, {64, 33, 96}, {3, 100, 131}}) {
    const Floats x = Random(count * inner), weight = Random(columns * inner),
                 bias = Random(columns), added = Random(count * columns);
    std::vector<double> expected;
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t c = 0; c < columns; ++c) {
        double sum = bias[c] + added[i * columns + c];
        for (int64_t k = 0; k < inner; ++k) sum += double{x[i * inner + k]} * weight[c * inner + k];
        expected.push_back(sum);
      }
    }
    Floats packed(static_cast<size_t>(PackedFloats(inner, columns)));
    PackPanels(weight.data(), inner, columns, 1, packed.data(), 0, PanelCount(columns));
    for (const Instructions instructions : Runnable()) {
      Floats out(expected.size(), NAN);
      Product product{};
      product.rows.data = x.data();
      product.rows.stride = inner;
      product.packed = packed.data();
      product.bias = bias.data();
      product.added = added.data();
      product.out = out.data();
      product.inner = inner;
      product.columns = product.added_stride = product.out_stride = columns;
      Multiply(product, 0, count, 0, PanelCount(columns), instructions);
      EXPECT_LE(Difference(out, expected), 3e-6)
          << count << " " << inner << " " << columns << " " << static_cast<int>(instructions);
    }
  }
}

struct Convolution {
  int64_t batch, height, width, in, out, kernel, step, padding;
};

TEST(LoopsTest, Convolutions) {
  for (const Convolution& c : {Convolution{1, 1, 1, 16, 1, 3, 1, 1},
                               {2, 5, 7, 16, 20, 3, 1, 1},
                               {1, 8, 8, 48, 49, 3, 1, 1},
                               {2, 7, 4, 5, 6, 3, 2, 1},
                               {1, 6, 9, 3, 50, 1, 1, 0},
                               {1, 5, 5, 4, 8, 5, 1, 2}}) {
    const int64_t out_height = (c.height + 2 * c.padding - c.kernel) / c.step + 1;
    const int64_t out_width = (c.width + 2 * c.padding - c.kernel) / c.step + 1;
    const int64_t points = out_height * out_width, taps = c.kernel * c.kernel;
    const Floats x = Random(c.batch * c.height * c.width * c.in),
                 weight = Random(c.out * c.in * taps);
    std::vector<double> expected;
    for (int64_t n = 0; n < c.batch; ++n) {
      for (int64_t point = 0; point < points; ++point) {
        for (int64_t o = 0; o < c.out; ++o) {
          double sum = 0;
          for (int64_t tap = 0; tap < taps; ++tap) {
            const int64_t y = point / out_width * c.step - c.padding + tap / c.kernel;
            const int64_t z = point % out_width * c.step - c.padding + tap % c.kernel;
            if (y < 0 || y >= c.height || z < 0 || z >= c.width) continue;
            for (int64_t i = 0; i < c.in; ++i) {
              sum += double{x[((n * c.height + y) * c.width + z) * c.in + i]} *
                     weight[(o * c.in + i) * taps + tap];
            }
          }
          expected.push_back(sum);
        }
      }
    }
    Floats packed(static_cast<size_t>(PackedFloats(taps * c.in, c.out)));
    PackPanels(weight.data(), taps * c.in, c.out, taps, packed.data(), 0, PanelCount(c.out));
    Floats out(expected.size());
    Product product{};
    product.rows.data = x.data();
    product.rows.kernel = c.kernel;
    product.rows.step = c.step;
    product.rows.padding = c.padding;
    product.rows.height = c.height;
    product.rows.width = c.width;
    product.rows.channels = c.in;
    product.rows.out_height = out_height;
    product.rows.out_width = out_width;
    product.packed = packed.data();
    product.out = out.data();
    product.inner = taps * c.in;
    product.columns = product.added_stride = product.out_stride = c.out;
    for (const Instructions instructions : Runnable()) {
      std::fill(out.begin(), out.end(), NAN);
      Multiply(product, 0, c.batch * points, 0, PanelCount(c.out), instructions);
      EXPECT_LE(Difference(out, expected), 3e-6) << c.height << "x" << c.width;
      if (!TakesWinograd(product.rows)) continue;
      std::fill(out.begin(), out.end(), NAN);
      const int64_t squares = c.batch * SquareCount(product.rows);
      Floats work(static_cast<size_t>(WinogradWork(product, squares)));
      MultiplyWinograd(product, 0, squares, 0, PanelCount(c.out), work.data(), instructions);
      EXPECT_LE(Difference(out, expected), 3e-6) << c.height << "x" << c.width;
    }
  }
}

TEST(LoopsTest, Attention) {
  for (const auto& [queries, keys, width] : std::vector<std::array<int64_t, 3>>{
           {1, 1, 1}, {9, 77, 40}, {5, 500, 24}, {70, 33, 7}, {11, 20, 12}, {8, 50, 48}}) {
    const Floats q = Random(queries * width), k = Random(keys * width), v = Random(keys * width);
    Floats mask = Random(queries * keys);
    if (keys > 400) std::fill_n(mask.begin(), 400, -INFINITY);  // hides whole blocks
    std::vector<double> expected;
    for (int64_t i = 0; i < queries; ++i) {
      std::vector<double> weights, sums(static_cast<size_t>(width));
      double largest = -INFINITY, total = 0;
      for (int64_t j = 0; j < keys; ++j) {
        double score = mask[i * keys + j];
        for (int64_t d = 0; d < width; ++d) score += double{q[i * width + d]} * k[j * width + d];
        weights.push_back(score);
        largest = std::max(largest, score);
      }
      for (int64_t j = 0; j < keys; ++j) {
        const double weight = std::exp(weights[j] - largest);
        total += weight;
        for (int64_t d = 0; d < width; ++d) sums[d] += weight * v[j * width + d];
      }
      for (const double sum : sums) expected.push_back(sum / total);
    }
    const AttentionShape shape{queries, keys, width, width, width, width, width, mask.data()};
    for (const Instructions instructions : Runnable()) {
      Floats out(expected.size(), NAN), work(static_cast<size_t>(AttentionWork(shape)), NAN);
      AttendHead(q.data(), k.data(), v.data(), out.data(), shape, 1.0f, 0, queries, work.data(),
                 instructions);
      EXPECT_LE(Difference(out, expected), 1e-5) << keys << " " << static_cast<int>(instructions);
    }
  }
}

TEST(LoopsTest, GroupNormsOfBothLayoutsAndLayerNorm) {
  for (const NormShape& shape : {NormShape{1, 1, 2}, {4, 3, 5}, {2, 24, 33}, {8, 5, 64}}) {
    const int64_t groups = shape.groups, channels = shape.channels, area = shape.area;
    const int64_t all = groups * channels;
    const Floats x = Random(all * area), weight = Random(all), bias = Random(all),
                 shift = Random(all);
    const auto normed = [&](int64_t first, int64_t count, auto value, int64_t i) {
      double mean = 0, square = 0;
      for (int64_t j = first; j < first + count; ++j) mean += value(j) / count;
      for (int64_t j = first; j < first + count; ++j) {
        square += (value(j) - mean) * (value(j) - mean) / count;
      }
      return (value(i) - mean) / std::sqrt(square + 1e-5);
    };
    std::vector<double> expected;
    const auto shifted = [&](int64_t i) { return double{x[i]} + shift[i / area]; };
    for (int64_t i = 0; i < all * area; ++i) {
      const int64_t size = channels * area, c = i / area;
      const double y = normed(i / size * size, size, shifted, i) * weight[c] + bias[c];
      expected.push_back(y / (1 + std::exp(-y)));
    }
    Floats out(expected.size(), NAN);
    GroupNormSample(x.data(), out.data(), shape, weight.data(), bias.data(), shift.data(), 1e-5f,
                    /*silu=*/true);
    EXPECT_LE(Difference(out, expected), 1e-5);

    // The same with the channels last.
    Floats points(x.size());
    for (int64_t i = 0; i < all * area; ++i) points[i % area * all + i / area] = x[i];
    std::vector<double> sums(static_cast<size_t>(2 * all));
    Floats scale(static_cast<size_t>(all)), offset(static_cast<size_t>(all)), last(x.size(), NAN);
    AddPointSums(points.data(), points.data(), area, all, sums.data());
    FinishPointSums(sums.data(), points.data(), shape, weight.data(), bias.data(), shift.data(),
                    1e-5f, scale.data(), offset.data());
    ScalePoints(points.data(), last.data(), area, all, scale.data(), offset.data(), /*silu=*/true);
    for (int64_t i = 0; i < all * area; ++i) out[i] = last[i % area * all + i / area];
    EXPECT_LE(Difference(out, expected), 1e-5);

    std::vector<double> rows;
    const auto plain = [&](int64_t i) { return double{x[i]}; };
    for (int64_t i = 0; i < all * area; ++i) {
      rows.push_back(normed(i / all * all, all, plain, i) * weight[i % all] + bias[i % all]);
    }
    if (all == 1) continue;
    LayerNormRows(x.data(), out.data(), area, all, weight.data(), bias.data(), 1e-5f);
    EXPECT_LE(Difference(out, rows), 1e-5);
  }
}

TEST(LoopsTest, Geglu) {
  for (const int64_t width : {1, 15, 16, 50}) {
    const Floats x = Random(2 * width);
    std::vector<double> expected;
    for (int64_t i = 0; i < width; ++i) {
      const double gate = x[width + i];
      expected.push_back(x[i] * gate * 0.5 * (1 + std::erf(gate / std::sqrt(2.0))));
    }
    Floats out(static_cast<size_t>(width), NAN);
    GegluRow(x.data(), out.data(), width);
    EXPECT_LE(Difference(out, expected), 2e-6);
  }
}

}  // namespace
}  // namespace d2g::model

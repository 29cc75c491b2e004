// The loops over plain memory, in every version that this machine can run.
#include "model/kernels/instructions.h"

#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include "model/kernels/attention_loops.h"
#include "model/kernels/winograd_loops.h"

namespace d2g::model {
namespace {

std::vector<Instructions> Runnable() {
  std::vector<Instructions> all = {Instructions::kPortable, Instructions::kAvx2,
                                   Instructions::kAvx512};
  std::erase_if(all, [](Instructions i) { return i > MachineInstructions(); });
  return all;
}

double Difference(const at::Tensor& a, const at::Tensor& b) {
  return ((a - b).abs().max() / b.abs().max()).item<double>();
}

TEST(InstructionsTest, ConvolutionsAgree) {
  at::manual_seed(4);
  for (const auto& [side, in, out] :
       std::vector<std::array<int64_t, 3>>{{8, 48, 48}, {7, 80, 20}, {5, 16, 100}, {24, 128, 64}}) {
    const at::Tensor x = at::randn({2, side, side, in}), weight = at::randn({out, in, 3, 3}),
                     bias = at::randn({out}), added = at::randn({2, side, side, out});
    const at::Tensor expected =
        at::conv2d(x.permute({0, 3, 1, 2}), weight, bias, 1, 1).permute({0, 2, 3, 1}) + added;
    const at::Tensor packed = at::empty({PackedFloats(9 * in, out)});
    PackPanels(weight.const_data_ptr<float>(), 9 * in, out, 9, packed.mutable_data_ptr<float>(), 0,
               PanelCount(out));
    Product product{};
    product.rows.data = x.const_data_ptr<float>();
    product.rows.kernel = 3;
    product.rows.padding = 1;
    product.rows.height = product.rows.width = side;
    product.rows.out_height = product.rows.out_width = side;
    product.rows.channels = in;
    product.packed = packed.const_data_ptr<float>();
    product.bias = bias.const_data_ptr<float>();
    product.added = added.const_data_ptr<float>();
    product.inner = 9 * in;
    product.columns = product.added_stride = product.out_stride = out;
    ASSERT_TRUE(TakesWinograd(product.rows));
    const int64_t squares = 2 * SquareCount(product.rows);
    for (const Instructions instructions : Runnable()) {
      SCOPED_TRACE(static_cast<int>(instructions));
      at::Tensor result = at::full_like(expected, NAN, at::MemoryFormat::Contiguous);
      product.out = result.mutable_data_ptr<float>();
      Multiply(product, 0, 2 * side * side, 0, PanelCount(out), instructions);
      EXPECT_LE(Difference(result, expected), 3e-6);
      result.fill_(NAN);
      const at::Tensor work = at::empty({WinogradWork(product, squares)});
      MultiplyWinograd(product, 0, squares, 0, PanelCount(out), work.mutable_data_ptr<float>(),
                       instructions);
      EXPECT_LE(Difference(result, expected), 3e-6);
    }
  }
}

TEST(InstructionsTest, AttentionAgrees) {
  at::manual_seed(5);
  for (const auto& [queries, keys, width] :
       std::vector<std::array<int64_t, 3>>{{1, 1, 1}, {50, 77, 40}, {7, 900, 24}, {100, 100, 96}}) {
    const at::Tensor q = at::randn({queries, width}), k = at::randn({keys, width}),
                     v = at::randn({keys, width}), mask = at::randn({queries, keys});
    // The keys of whole blocks are hidden from some queries.
    if (keys > 600) mask.slice(0, 0, queries, 2).slice(1, 0, 600).fill_(-INFINITY);
    const at::Tensor expected = at::matmul(at::softmax(at::matmul(q, k.t() * 9) + mask, -1), v);
    const AttentionShape shape{queries, keys,  width, width,
                               width,   width, width, mask.const_data_ptr<float>()};
    const at::Tensor work = at::empty({AttentionWork(shape)});
    for (const Instructions instructions : Runnable()) {
      const at::Tensor result = at::full({queries, width}, NAN);
      // In two parts, as two threads would.
      for (const auto& [first, last] :
           {std::pair(int64_t{0}, queries / 2), std::pair(queries / 2, queries)}) {
        AttendHead(q.const_data_ptr<float>(), k.const_data_ptr<float>(), v.const_data_ptr<float>(),
                   result.mutable_data_ptr<float>(), shape, 9.0f, first, last,
                   work.mutable_data_ptr<float>(), instructions);
      }
      EXPECT_LE(Difference(result, expected), 2e-5) << static_cast<int>(instructions);
    }
  }
}

}  // namespace
}  // namespace d2g::model

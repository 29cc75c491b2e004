#include "worker/evaluate/pictures.h"

#include <gtest/gtest.h>

namespace d2g::evaluate {
namespace {

// Pictures 0..n-1, each of one brightness.
ModelPictures Flat(std::vector<float> values) {
  const int64_t count = static_cast<int64_t>(values.size());
  return {at::zeros({count, 1, 1, 1}),
          at::tensor(values).view({count, 1, 1, 1}).expand({count, 1, 8, 8})};
}

TEST(SideBySide, ShowsEveryLabelBeforeASecondOfOne) {
  const ModelPictures top = Flat({-1, -0.5, 0, 0.5, 1}), bottom = Flat({1, 0.5, 0, -0.5, -1});
  // Labels 1, 1, 0, 2, 0: columns are picture 2 (label 0), 0 (label 1), 3 (label 2), then 4.
  const at::Tensor grid = SideBySide({&top, &bottom}, {1, 1, 0, 2, 0}, 4);
  const int64_t side = 96, step = side + 2;
  ASSERT_EQ(grid.size(0), 2 * step - 2);
  ASSERT_EQ(grid.size(1), 4 * step - 2);
  auto shown = [&](int64_t row, int64_t column) {
    return grid[row * step + side / 2][column * step + side / 2][0].item<int>();
  };
  EXPECT_NEAR(shown(0, 0), 128, 1);
  EXPECT_EQ(shown(0, 1), 0);
  EXPECT_NEAR(shown(0, 2), 191, 1);
  EXPECT_EQ(shown(0, 3), 255);
  EXPECT_EQ(shown(1, 1), 255);
  EXPECT_EQ(shown(1, 3), 0);
}

TEST(SideBySide, HasAtMostAllPictures) {
  const ModelPictures row = Flat({0, 1});
  EXPECT_EQ(SideBySide({&row}, {-1, -1}, 10).size(1), 2 * 98 - 2);
}

}  // namespace
}  // namespace d2g::evaluate

#include "worker/simulate/batch_sizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace d2g::simulate {
namespace {

// A device that does `rate` a second, saturated at `saturation` triples, with memory for `fits`.
struct Device {
  double rate;
  int saturation;
  int fits;

  absl::Duration TimeOf(int count) const {
    return absl::Seconds(std::max(count, saturation) / rate);
  }
  // Time of the first batch of a size.
  absl::Duration ColdTimeOf(int count) const { return TimeOf(count) + absl::Seconds(1); }
};

// The sizes of the batches that are tried; negative where memory ran out.
std::vector<int> SizesTried(BatchSizer sizer, const Device& device, int batches) {
  std::vector<int> sizes;
  int last = 0;
  for (int i = 0; i < batches; ++i) {
    const int size = sizer.size();
    if (size > device.fits) {
      sizes.push_back(-size);
      if (!sizer.OutOfMemory(size)) break;
    } else {
      sizes.push_back(size);
      sizer.Solved(size, size == last ? device.TimeOf(size) : device.ColdTimeOf(size));
      last = size;
    }
  }
  return sizes;
}

using Sizes = std::vector<int>;

TEST(BatchSizerTest, GrowsUntilTheDeviceIsSaturated) {
  EXPECT_EQ(SizesTried(BatchSizer({.start = 8, .most = 4096, .grows = true}), {100, 32, 10000}, 10),
            Sizes({8, 8, 16, 16, 32, 32, 64, 64, 32, 32}));
}

TEST(BatchSizerTest, KeepsItsSizeWhereGrowingIsNotAllowed) {
  EXPECT_EQ(SizesTried(BatchSizer({.start = 32}), {100, 1000, 10000}, 3), Sizes({32, 32, 32}));
}

TEST(BatchSizerTest, StopsAtTheLimit) {
  EXPECT_EQ(SizesTried(BatchSizer({.start = 8, .most = 31, .grows = true}), {100, 1000, 10000}, 5),
            Sizes({8, 8, 16, 16, 16}));
  EXPECT_EQ(BatchSizer({.start = 64, .most = 10}).size(), 10);
}

TEST(BatchSizerTest, HalvesWhenMemoryRunsOutAndDoesNotTryAgain) {
  EXPECT_EQ(SizesTried(BatchSizer({.start = 32, .grows = true}), {100, 1000, 100}, 8),
            Sizes({32, 32, 64, 64, -128, 64, 64, 64}));
  EXPECT_EQ(SizesTried(BatchSizer({.start = 32}), {100, 1, 5}, 6), Sizes({-32, -16, -8, 4, 4, 4}));
}

TEST(BatchSizerTest, GivesUpWhenNotEvenOneFits) {
  EXPECT_EQ(SizesTried(BatchSizer({.start = 4}), {100, 1, 0}, 9), Sizes({-4, -2, -1}));
}

TEST(BatchSizerTest, ARestOfARangeTeachesNothing) {
  BatchSizer sizer({.start = 32, .grows = true});
  sizer.Solved(3, absl::Seconds(100));
  EXPECT_EQ(sizer.size(), 32);
  sizer.Solved(32, absl::Seconds(9));
  sizer.Solved(32, absl::Seconds(1));
  EXPECT_EQ(sizer.size(), 64);
  // Memory that runs out at a rest, which is smaller than the size.
  EXPECT_TRUE(sizer.OutOfMemory(40));
  EXPECT_EQ(sizer.size(), 20);
}

}  // namespace
}  // namespace d2g::simulate

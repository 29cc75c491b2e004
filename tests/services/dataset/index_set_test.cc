#include "services/dataset/index_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <stdexcept>

#include "services/dataset/holdout.h"
#include "services/dataset/random.h"

namespace d2g::dataset {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(IndexSet, MergesTouchingAndOverlappingRanges) {
  IndexSet set({{10, 20}, {30, 40}, {20, 25}, {5, 5}});
  EXPECT_THAT(set.ranges(), ElementsAre(Range{10, 25}, Range{30, 40}));
  EXPECT_EQ(set.count(), 25);
  set.Merge({24, 35});
  EXPECT_THAT(set.ranges(), ElementsAre(Range{10, 40}));
  EXPECT_EQ(set.count(), 30);
}

TEST(IndexSet, AgreesWithAPlainSet) {
  Philox random(1, Purpose::kOrder, 0);
  for (int round = 0; round < 200; ++round) {
    IndexSet set;
    std::set<int64_t> plain;
    for (int i = 0; i < 12; ++i) {
      const int64_t begin = random.NextBelow(60);
      const int64_t end = begin + random.NextBelow(9);
      set.Merge({begin, end});
      for (int64_t index = begin; index < end; ++index) plain.insert(index);
    }
    ASSERT_EQ(set.count(), static_cast<int64_t>(plain.size()));
    int64_t n = 0;
    for (const int64_t index : plain) ASSERT_EQ(set.Nth(n++), index);
    for (int64_t index = 0; index < 70; ++index) {
      ASSERT_EQ(set.Contains(index), plain.count(index) == 1);
    }
    for (size_t i = 1; i < set.ranges().size(); ++i) {
      ASSERT_LT(set.ranges()[i - 1].end, set.ranges()[i].begin);
    }
  }
}

TEST(IndexSet, RefusesBadRanges) {
  EXPECT_THROW(IndexSet({{-1, 3}}), std::invalid_argument);
  EXPECT_THROW(IndexSet({{4, 3}}), std::invalid_argument);
}

TEST(Holdout, CountsAndNumbersTrainingIndices) {
  for (const int64_t every : {0, 2, 3, 8, 128}) {
    int64_t n = 0;
    for (int64_t index = 0; index < 1000; ++index) {
      ASSERT_EQ(TrainingCountBelow(index, every), n);
      if (IsHeldOut(index, every)) continue;
      ASSERT_EQ(NthTrainingIndex(n++, every), index);
    }
  }
  EXPECT_EQ(TrainingCountBelow(50, 1), 0);
}

TEST(Holdout, ListsHeldOutIndicesInsideTheSealedSet) {
  const IndexSet sealed({{3, 17}, {24, 33}});
  EXPECT_THAT(HeldOutIndices(sealed, 8, 100), ElementsAre(8, 16, 24, 32));
  EXPECT_THAT(HeldOutIndices(sealed, 8, 2), ElementsAre(8, 16));
  EXPECT_THAT(HeldOutIndices(sealed, 0, 100), IsEmpty());
}

}  // namespace
}  // namespace d2g::dataset

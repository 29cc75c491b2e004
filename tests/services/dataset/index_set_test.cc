#include "services/dataset/index_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <random>
#include <set>
#include <stdexcept>

#include "services/dataset/holdout.h"

namespace d2g::dataset {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

TEST(IndexSet, MergesTouchingAndOverlappingRanges) {
  IndexSet set({{10, 20}, {30, 40}, {20, 25}, {5, 5}});
  EXPECT_THAT(set.ranges(), ElementsAre(Pair(10, 25), Pair(30, 40)));
  EXPECT_EQ(set.size(), 25);
  set.Add(24, 35);
  EXPECT_THAT(set.ranges(), ElementsAre(Pair(10, 40)));
  EXPECT_EQ(set.size(), 30);
}

TEST(IndexSet, AgreesWithASetOfNumbers) {
  for (uint32_t seed = 1; seed <= 20; ++seed) {
    std::mt19937 random(seed);
    IndexSet set;
    std::set<int64_t> numbers;
    for (int i = 0; i < 200; ++i) {
      const int64_t begin = random() % 60;
      const int64_t end = begin + random() % 12;
      int64_t changed = 0;
      if (random() % 3 != 0) {
        for (int64_t n = begin; n < end; ++n) changed += numbers.insert(n).second;
        ASSERT_EQ(set.Add(begin, end), changed) << "seed " << seed;
      } else {
        for (int64_t n = begin; n < end; ++n) changed += static_cast<int64_t>(numbers.erase(n));
        ASSERT_EQ(set.Remove(begin, end), changed) << "seed " << seed;
      }
      ASSERT_EQ(set.size(), static_cast<int64_t>(numbers.size()));
      int64_t last_end = -1;
      for (const auto& [from, to] : set.ranges()) {
        ASSERT_LT(from, to);
        ASSERT_GT(from, last_end) << "ranges touch or overlap";
        last_end = to;
      }
      const int64_t a = random() % 70;
      const int64_t b = a + random() % 20;
      int64_t count = 0;
      int64_t sevens = 0;
      for (const int64_t n : numbers) {
        count += n >= a && n < b;
        sevens += n >= a && n < b && n % 7 == 0;
      }
      ASSERT_EQ(set.Count(a, b), count);
      ASSERT_EQ(set.CountMultiples(a, b, 7), sevens);
      ASSERT_EQ(set.Contains(a), numbers.contains(a));
      int64_t absent = a;
      while (numbers.contains(absent)) ++absent;
      ASSERT_EQ(set.FirstAbsent(a), absent);
      const auto present = numbers.lower_bound(a);
      ASSERT_EQ(set.FirstPresent(a),
                present == numbers.end() ? std::nullopt : std::optional<int64_t>(*present));
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

#include "services/dataset/permutation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <stdexcept>
#include <vector>

#include "services/dataset/prompt_order.h"

namespace d2g::dataset {
namespace {

using ::testing::ElementsAre;

std::vector<int64_t> All(int64_t n, uint64_t key) {
  const FeistelPermutation permutation(n, key);
  std::vector<int64_t> values(n);
  for (int64_t i = 0; i < n; ++i) values[i] = permutation(i);
  return values;
}

TEST(FeistelPermutation, IsABijectionForEverySize) {
  for (int64_t n = 1; n <= 300; ++n) {
    std::vector<bool> seen(n);
    for (const int64_t value : All(n, 99)) {
      ASSERT_TRUE(value >= 0 && value < n && !seen[value]) << n;
      seen[value] = true;
    }
  }
}

TEST(FeistelPermutation, IsFrozen) {
  EXPECT_THAT(All(10, 1), ElementsAre(9, 2, 5, 7, 4, 1, 0, 6, 8, 3));
  EXPECT_THAT(All(10, 2), ElementsAre(7, 6, 1, 9, 8, 3, 0, 4, 2, 5));
  EXPECT_EQ(FeistelPermutation(1000000007, 3)(123456789), 225300712);
  EXPECT_EQ(FeistelPermutation(int64_t{1} << 62, 3)(1), 790803792996109000);
}

TEST(FeistelPermutation, LooksRandom) {
  // Positions and values of a random permutation correlate by about 1 / sqrt(n).
  const int64_t n = 10000;
  double sum = 0;
  const std::vector<int64_t> values = All(n, 5);
  for (int64_t i = 0; i < n; ++i) sum += (i - n / 2.0) * (values[i] - n / 2.0);
  const double correlation = sum / (n * (n * 1.0 * n / 12));
  EXPECT_LT(std::abs(correlation), 4 / std::sqrt(n));
}

TEST(FeistelPermutation, RefusesAnEmptySet) {
  EXPECT_THROW(FeistelPermutation(0, 1), std::invalid_argument);
}

TEST(PromptOrder, EveryCycleUsesEveryPromptOnceInANewOrder) {
  std::map<std::vector<int64_t>, int> orders;
  for (int64_t cycle = 0; cycle < 5; ++cycle) {
    std::vector<int64_t> order;
    std::vector<int> uses(40);
    for (int64_t i = 0; i < 40; ++i) {
      order.push_back(PromptIndexOf(8, cycle * 40 + i, 40));
      ++uses[order.back()];
    }
    EXPECT_THAT(uses, testing::Each(1));
    ++orders[order];
  }
  EXPECT_EQ(orders.size(), 5u);
}

TEST(PromptOrder, IsFrozen) {
  std::vector<int64_t> prompts;
  for (int64_t i = 0; i < 8; ++i) prompts.push_back(PromptIndexOf(2024, 995 + i, 1000));
  EXPECT_THAT(prompts, ElementsAre(836, 167, 282, 783, 178, 156, 937, 194));
  EXPECT_EQ(PromptIndexOf(1, 1000000, 1), 0);
}

TEST(PromptOrder, RefusesNegativeIndexAndNoPrompts) {
  EXPECT_THROW(PromptIndexOf(1, -1, 5), std::invalid_argument);
  EXPECT_THROW(PromptIndexOf(1, 0, 0), std::invalid_argument);
}

}  // namespace
}  // namespace d2g::dataset

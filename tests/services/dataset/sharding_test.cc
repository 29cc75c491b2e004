#include "services/dataset/sharding.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace d2g::dataset {
namespace {

TEST(Sharding, BlocksGoRoundTheShards) {
  common::v1::DatasetRecipe recipe;
  recipe.set_block_size(16);
  EXPECT_EQ(ShardOf(recipe, 1'000'000), 0);  // names no shard count
  recipe.set_shard_count(3);
  for (const auto& [index, shard] : std::vector<std::pair<int64_t, int>>{
           {0, 0}, {15, 0}, {16, 1}, {47, 2}, {48, 0}, {16 * 301, 1}}) {
    EXPECT_EQ(ShardOf(recipe, index), shard) << index;
  }
}

}  // namespace
}  // namespace d2g::dataset

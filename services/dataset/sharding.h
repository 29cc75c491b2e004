// Where a triple lives: its block, and the shard that holds the block.
#pragma once

#include <algorithm>
#include <cstdint>

#include "d2g/common/v1/recipe.pb.h"

namespace d2g::dataset {

// index >= 0; the recipe's block size is at least 1. One that names no shard count has one shard.
inline int64_t BlockOf(const common::v1::DatasetRecipe& recipe, int64_t index) {
  return index / recipe.block_size();
}
inline int32_t ShardOfBlock(const common::v1::DatasetRecipe& recipe, int64_t block) {
  return static_cast<int32_t>(block % std::max(1, recipe.shard_count()));
}
inline int32_t ShardOf(const common::v1::DatasetRecipe& recipe, int64_t index) {
  return ShardOfBlock(recipe, BlockOf(recipe, index));
}

}  // namespace d2g::dataset

// Recipes and triples for the store's tests.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "d2g/common/v1/recipe.pb.h"
#include "d2g/store/v1/triple_service.pb.h"
#include "services/dataset/latent_codec.h"

namespace d2g::store::testing {

// A 4x8x8 fp16 latent: 512 bytes.
inline common::v1::DatasetRecipe SmallRecipe(int shard_count = 1, int block_size = 64) {
  common::v1::DatasetRecipe recipe;
  recipe.set_teacher_digest("xxh3-128:00000000000000000000000000000001");
  recipe.set_prompts_digest("xxh3-128:00000000000000000000000000000002");
  recipe.set_prompt_count(1000);
  recipe.mutable_solver()->set_kind("ddim");
  recipe.mutable_solver()->set_steps(50);
  recipe.mutable_solver()->set_guidance(7.5);
  recipe.set_latent_channels(4);
  recipe.set_latent_height(8);
  recipe.set_latent_width(8);
  recipe.set_storage_dtype(common::v1::DTYPE_FP16);
  recipe.set_seed(1);
  recipe.set_block_size(block_size);
  recipe.set_holdout_every(8);
  recipe.set_shard_count(shard_count);
  return recipe;
}

inline common::v1::IndexRange Range(int64_t begin, int64_t end) {
  common::v1::IndexRange range;
  range.set_begin(begin);
  range.set_end(end);
  return range;
}

// The triple of an index: the same numbers each time; `variant` gives other ones.
inline v1::Triple TestTriple(int64_t index, const common::v1::DatasetRecipe& recipe,
                             int variant = 0) {
  std::mt19937_64 random(static_cast<uint64_t>(index * 31 + variant));
  std::vector<float> x(static_cast<size_t>(dataset::LatentElements(recipe)));
  for (float& value : x) value = static_cast<float>(random() % 2001) / 1000.0F - 1.0F;
  return dataset::MakeTriple(index, index % recipe.prompt_count(), x, x, recipe.storage_dtype())
      .value();
}

}  // namespace d2g::store::testing

#include "coordinator/spec/job_spec.h"

#include <algorithm>
#include <cstdint>

#include "services/dataset/index_set.h"

namespace d2g::coordinator {

using common::v1::DatasetRecipe;
using v1::JobSpec;

int64_t TrainingThreshold(const JobSpec& spec) {
  const int64_t triples = spec.simulate().triples();
  const int64_t training =
      triples - dataset::MultiplesIn(0, triples, spec.simulate().holdout_every());
  return std::min(training, spec.simulate().min_triples());
}

DatasetRecipe MakeRecipe(const JobSpec& spec, const TeacherFacts& teacher, int64_t prompt_count,
                         int32_t shard_count) {
  DatasetRecipe recipe;
  recipe.set_teacher_digest(teacher.digest);
  recipe.set_prompts_digest(spec.prompts().digest());
  recipe.set_prompt_count(prompt_count);
  *recipe.mutable_solver() = spec.simulate().solver();
  recipe.set_latent_channels(teacher.latent_channels);
  recipe.set_latent_height(teacher.latent_height);
  recipe.set_latent_width(teacher.latent_width);
  recipe.set_storage_dtype(spec.simulate().storage_dtype());
  recipe.set_seed(spec.simulate().seed());
  recipe.set_block_size(spec.simulate().block_size());
  recipe.set_holdout_every(spec.simulate().holdout_every());
  recipe.set_shard_count(shard_count);
  return recipe;
}

}  // namespace d2g::coordinator

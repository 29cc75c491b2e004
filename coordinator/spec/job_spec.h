// What follows from a job's spec: when training may start, and the recipe of its dataset.
#pragma once

#include <cstdint>
#include <string>

#include "d2g/common/v1/recipe.pb.h"
#include "d2g/coordinator/v1/job.pb.h"

namespace d2g::coordinator {

// What training waits for: sealed triples that are not held out. REQUIRES: a normal spec
// (services/spec/normal_spec.h).
int64_t TrainingThreshold(const v1::JobSpec& spec);

// What the spec's files say; see job_inputs.h.
struct TeacherFacts {
  std::string digest;
  int32_t latent_channels = 0;
  int32_t latent_height = 0;
  int32_t latent_width = 0;
};

// The recipe of the job's dataset. REQUIRES: a normal spec.
common::v1::DatasetRecipe MakeRecipe(const v1::JobSpec& spec, const TeacherFacts& teacher,
                                     int64_t prompt_count, int32_t shard_count);

}  // namespace d2g::coordinator

// What a job spec must look like: defaults, limits, and the recipe that follows from it.
#pragma once

#include <string>
#include <vector>

#include "d2g/common/v1/recipe.pb.h"
#include "d2g/coordinator/v1/job.pb.h"
#include "services/common/grpc_status.h"
#include "services/common/path_policy.h"

namespace d2g::coordinator {

// Fills in defaults and makes paths normal by the rules at the fields (services/spec/field_rules.h)
// and those that take several fields; returns every field that is out of its limits, with its value
// and the limit. Looks at nothing but the message. Fields are called "spec.train.steps" and so on.
std::vector<d2g::common::FieldViolation> NormalizeSpec(d2g::coordinator::v1::JobSpec* spec);

// What training waits for: sealed triples that are not held out. REQUIRES: a normalized spec.
int64_t TrainingThreshold(const d2g::coordinator::v1::JobSpec& spec);

// What the spec's files say; see job_inputs.h.
struct TeacherFacts {
  std::string digest;
  int32_t latent_channels = 0;
  int32_t latent_height = 0;
  int32_t latent_width = 0;
};

// The recipe of the job's dataset. REQUIRES: a normalized spec.
d2g::common::v1::DatasetRecipe MakeRecipe(const d2g::coordinator::v1::JobSpec& spec,
                                          const TeacherFacts& teacher, int64_t prompt_count,
                                          int32_t shard_count);

}  // namespace d2g::coordinator

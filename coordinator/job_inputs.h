// The files that a job spec names.
#pragma once

#include <vector>

#include "coordinator/job_spec.h"
#include "d2g/coordinator/v1/job.pb.h"
#include "services/common/grpc_status.h"
#include "services/common/path_policy.h"

namespace d2g::coordinator {

// What was found, and everything that is wrong with it.
struct JobInputs {
  TeacherFacts teacher;
  std::vector<d2g::common::FieldViolation> violations;
};

// Reads the teacher's folder (all of it, for its digest), and checks that the teacher's scheduler
// has the spec's t0 and an x there, that its decoder has the discriminator's scales, that the
// evaluator's and the feature network's folders are there and that output_dir is, or can be made, a
// folder that can be written; and that `paths` allows them all. Makes and changes no file. Blocks;
// thread-safe. REQUIRES: a normalized spec.
JobInputs CheckJobInputs(const d2g::coordinator::v1::JobSpec& spec,
                         const d2g::common::PathPolicy& paths = {});

}  // namespace d2g::coordinator

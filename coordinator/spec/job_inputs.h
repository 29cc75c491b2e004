// The files that a job spec names.
#pragma once

#include <vector>

#include "coordinator/spec/job_spec.h"
#include "d2g/coordinator/v1/job.pb.h"
#include "services/common/grpc_status.h"
#include "services/common/path_policy.h"

namespace d2g::coordinator {

// What was found, and everything that is wrong with it.
struct JobInputs {
  TeacherFacts teacher;
  std::vector<common::FieldViolation> violations;
};

// Checks that `paths` allows the folders that the spec names; that the teacher can be run and its
// scheduler can run the spec's solver and has its t0 and an x there; that its decoder has the
// discriminator's scales; that the configs and headers of the evaluator and of the feature network
// are as those who load them want; and that output_dir is, or can be made, a folder that can be
// written. Reads all of a teacher that can be run, for its digest. Makes and changes no file.
// Blocks; thread-safe. REQUIRES: a normal spec.
JobInputs CheckJobInputs(const v1::JobSpec& spec, const common::PathPolicy& paths = {});

}  // namespace d2g::coordinator

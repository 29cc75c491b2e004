// Whose files lie where a job wants to have its output.
#pragma once

#include <string>
#include <vector>

#include "d2g/coordinator/v1/job.pb.h"
#include "services/common/grpc_status.h"

namespace d2g::coordinator {

// An output folder that a job of this coordinator was given.
struct KnownOutput {
  // "jobs/{id}".
  std::string job;
  // With links resolved.
  std::string path;
};

// What was found, and everything that is wrong with it.
struct JobOutput {
  // "jobs/{id}" of the job whose files are in it, when the spec says that they may be set aside.
  std::string replaces;
  std::vector<common::FieldViolation> violations;
};

// Looks for what another job left in output_dir, in a folder around it, and in those of `ended`
// (jobs that have ended; their folders count while their files are there). Refuses all of it unless
// spec.overwrite() is set, and files that no job made in any case. Changes no file. Blocks;
// thread-safe. REQUIRES: a normal spec; `path` is its output_dir, resolved.
JobOutput CheckJobOutput(const v1::JobSpec& spec, const std::string& path,
                         const std::vector<KnownOutput>& ended);

}  // namespace d2g::coordinator

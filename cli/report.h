// The tables of `d2g jobs` and `d2g describe`. Pure functions of protos. What a terminal would obey
// in their strings is written out (services/common/utf8.h): others wrote them.
#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "d2g/coordinator/v1/job.pb.h"
#include "d2g/coordinator/v1/job_service.pb.h"

namespace d2g::cli {

// A row a job: name, label, state, stage at work, progress, age.
std::string JobsTable(const std::vector<coordinator::v1::Job>& jobs, absl::Time now);

// Every measure of every model with its 95 % interval, then the share of the gap that the student
// closed, the discriminator's figures, and where the picture is.
std::string EvaluationTable(const coordinator::v1::EvaluationReport& report);

// When each stage ran and for how long.
std::string StageTimesTable(const coordinator::v1::Job& job);

// Everything about a job that a person wants to read.
std::string JobDescription(const coordinator::v1::Job& job,
                           const std::vector<coordinator::v1::Checkpoint>& checkpoints,
                           const std::vector<coordinator::v1::TaskInfo>& tasks, absl::Time now);

}  // namespace d2g::cli

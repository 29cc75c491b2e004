// Whether two submissions ask for the same.
#pragma once

#include <optional>
#include <string>

#include "d2g/coordinator/v1/job.pb.h"

namespace d2g::coordinator {

// The first field, in the order of job.proto, in which a submission differs from a job's spec, with
// both values: "spec.train.steps is 60 there and 61 here". Nothing when both ask for the same:
// where a client read the prompt list does not count (its digest does), nor a teacher's digest that
// the submission leaves open. REQUIRES: both are normal. Pure.
std::optional<std::string> SpecDifference(const v1::JobSpec& there, const v1::JobSpec& here);

}  // namespace d2g::coordinator

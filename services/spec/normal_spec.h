// A spec made normal: every default filled in, every limit checked. Each field's own rule stands at
// the field; what takes several fields to decide stands in normal_spec.cc.
#pragma once

#include <vector>

#include "d2g/common/v1/train_spec.pb.h"
#include "d2g/coordinator/v1/job.pb.h"
#include "services/common/grpc_status.h"

namespace d2g::spec {

// The field of the one violation that a client can mend by itself (job_service.proto, CreateJob).
inline constexpr char kPromptsDigestField[] = "spec.prompts.digest";

// Fills in defaults and makes paths normal by the rules at the fields (field_rules.h) and those
// that take several fields; returns every field that is out of its limits, with its value and the
// limit. Looks at nothing but the message. A normal spec stays as it is. Fields are called
// "spec.train.steps" and so on.
std::vector<common::FieldViolation> NormalizeSpec(coordinator::v1::JobSpec* spec);

// The same for the train part alone, for those who have no more. Fields are called "train.steps".
std::vector<common::FieldViolation> NormalizeTrainSpec(common::v1::TrainSpec* train);

}  // namespace d2g::spec

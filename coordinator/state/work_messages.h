// What workers and agents are told to do.
#pragma once

#include "coordinator/state/cluster_parts.h"
#include "d2g/coordinator/v1/task_service.pb.h"
#include "d2g/coordinator/v1/training_service.pb.h"

namespace d2g::coordinator {

// The task of a live lease. Pure, as all below.
v1::Task TaskMessage(const rows::v1::LeaseRow& lease, const ClusterParts& parts);

// An agent's part of a generation. REQUIRES: ACTION_RUN. `resume` is the checkpoint that it begins
// from; null: it begins anew.
v1::GangAssignment AssignmentMessage(const GangTable::Answer& answer, const v1::Checkpoint* resume,
                                     const ClusterParts& parts);

}  // namespace d2g::coordinator

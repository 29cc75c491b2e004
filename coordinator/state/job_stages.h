// How far a job's stages are.
#pragma once

#include <vector>

#include "coordinator/state/cluster_parts.h"
#include "d2g/coordinator/v1/job.pb.h"

namespace d2g::coordinator {

// Done and total of each stage that the job has, in their order, without rates. Pure.
std::vector<v1::StageProgress> StagesOf(const rows::v1::JobRow& job, const ClusterParts& parts);

}  // namespace d2g::coordinator

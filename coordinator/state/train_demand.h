// Which jobs want to train now.
#pragma once

#include <cstdint>
#include <vector>

#include "coordinator/state/cluster_parts.h"
#include "coordinator/state/gang_table.h"
#include "coordinator/state/moment.h"

namespace d2g::coordinator {

// Shards that are down and hold triples of the job. Pure, as all below.
std::vector<int32_t> AwaitedShards(const rows::v1::JobRow& job, const ClusterParts& parts,
                                   Moment now);
// Whether the job has no generation and one may begin.
bool WantsGeneration(const rows::v1::JobRow& job, const ClusterParts& parts, Moment now);
// The live jobs that want one, in the order of their submission.
std::vector<TrainDemand> TrainDemands(const ClusterParts& parts, Moment now);

}  // namespace d2g::coordinator

// What holds a job up.
#pragma once

#include <string>
#include <vector>

#include "coordinator/state/cluster_parts.h"
#include "coordinator/state/moment.h"

namespace d2g::coordinator {

// A line for each trouble that the job has or will have, as its users read them. REQUIRES: the job
// is at work. Pure.
std::vector<std::string> HealthOf(const rows::v1::JobRow& job, const ClusterParts& parts,
                                  Moment now);

}  // namespace d2g::coordinator

// A job as its users see it.
#pragma once

#include "coordinator/state/cluster_parts.h"
#include "coordinator/state/moment.h"
#include "d2g/coordinator/v1/job.pb.h"

namespace d2g::coordinator {

// Progress by stage with rates, figures of the ranks, results, and what holds the job up while it
// is at work. Pure.
v1::Job ViewOf(const rows::v1::JobRow& job, const ClusterParts& parts, Moment now);
// What can be told of a job that was checked and will not be kept.
v1::Job ProposedView(const rows::v1::JobRow& job);

}  // namespace d2g::coordinator

// Which task a worker that asks is given.
#pragma once

#include <optional>

#include "absl/time/time.h"
#include "coordinator/state/cluster_parts.h"

namespace d2g::coordinator {

// Whether the job's triples are computed in half precision, which only GPUs do. Pure.
bool NeedsGpu(const rows::v1::JobRow& job, const Datasets& datasets);

// The lease that the worker gets now, not yet granted; nothing when there is none for it. Jobs are
// served in the order of their submission, those on trial last. Its task is -1 when it needs a new
// number. Pure.
std::optional<rows::v1::LeaseRow> ChooseTask(const Worker& worker, const ClusterParts& parts,
                                             absl::Duration now);

}  // namespace d2g::coordinator

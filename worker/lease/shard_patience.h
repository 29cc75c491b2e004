// How long a task waits for a shard.
#pragma once

#include <algorithm>

#include "absl/time/time.h"
#include "d2g/coordinator/v1/task_service.pb.h"
#include "services/common/proto_duration.h"

namespace d2g::lease {

// `patience`, but half the task's lease at most, so that a worker whose shard does not answer still
// holds the lease and can say why it gives the task back.
inline absl::Duration ShardPatience(const coordinator::v1::Task& task, absl::Duration patience) {
  return task.has_lease_duration()
             ? std::min(patience, common::FromProto(task.lease_duration()) / 2)
             : patience;
}

}  // namespace d2g::lease

// The cluster in numbers, for metrics.
#pragma once

#include <cstdint>

#include "d2g/coordinator/v1/job.pb.h"
#include "d2g/coordinator/v1/task_service.pb.h"

namespace d2g::coordinator {

// Totals since the start of the process, and counts as they are.
struct ClusterFigures {
  static constexpr int kKinds = v1::TaskKind_ARRAYSIZE;
  static constexpr int kReasons = v1::FailTaskRequest::Reason_ARRAYSIZE;
  static constexpr int kStates = v1::Job::State_ARRAYSIZE;
  int64_t leased[kKinds] = {};
  int64_t completed[kKinds] = {};
  int64_t lapsed[kKinds] = {};
  int64_t failed[kReasons] = {};
  int64_t triples_sealed = 0;
  int64_t triples_reopened = 0;
  int64_t generations_formed = 0;
  int64_t generations_broken = 0;
  int64_t checkpoints_committed = 0;
  int64_t jobs[kStates] = {};
  int64_t live_leases[kKinds] = {};
  int64_t live_workers = 0;
  int64_t live_shards = 0;
  int64_t agents = 0;
  int64_t ranks_running = 0;
  int64_t training_step = 0;   // of the job that trains; the first one where several do
  int64_t sealed_triples = 0;  // in all datasets
};

}  // namespace d2g::coordinator

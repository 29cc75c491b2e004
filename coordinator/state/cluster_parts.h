// What the coordinator knows, for reading.
#pragma once

#include "coordinator/state/checkpoints.h"
#include "coordinator/state/datasets.h"
#include "coordinator/state/gang_table.h"
#include "coordinator/state/job_rates.h"
#include "coordinator/state/jobs.h"
#include "coordinator/state/shard_registry.h"
#include "coordinator/state/snapshots.h"
#include "coordinator/state/tasks.h"
#include "coordinator/state/workers.h"

namespace d2g::coordinator {

// Every part of a ClusterState, for what looks at several of them and changes none: views, the
// choice of a task, the demand for gangs. Valid as long as the state.
struct ClusterParts {
  const Jobs& jobs;
  const Datasets& datasets;
  const Snapshots& snapshots;
  const Checkpoints& checkpoints;
  const Tasks& tasks;
  const Workers& workers;
  const ShardRegistry& shards;
  const GangTable& gangs;
  const JobRates& rates;
};

}  // namespace d2g::coordinator

#include "coordinator/state/train_demand.h"

#include <algorithm>

#include "coordinator/spec/job_spec.h"
#include "services/spec/field_rules.h"

namespace d2g::coordinator {

using rows::v1::JobRow;

std::vector<int32_t> AwaitedShards(const JobRow& job, const ClusterParts& parts, Moment now) {
  const DatasetState& dataset = parts.datasets.At(job.dataset());
  std::vector<int32_t> awaited = parts.shards.Missing(now.steady);
  std::erase_if(awaited, [&](int32_t shard) {
    return shard >= dataset.recipe().shard_count() ||
           !dataset.ShardHolds(shard, job.spec().simulate().triples());
  });
  return awaited;
}

bool WantsGeneration(const JobRow& job, const ClusterParts& parts, Moment now) {
  if (!AtWork(job) || parts.gangs.Active(job.id()) || parts.checkpoints.TrainDone(job)) {
    return false;
  }
  const DatasetState& dataset = parts.datasets.At(job.dataset());
  // Ranks would wait for what a shard that is down holds, and break when that takes too long.
  if (!AwaitedShards(job, parts, now).empty()) return false;
  // Likewise for what a shard has lost of an epoch that was begun.
  const dataset::IndexSet& read = parts.snapshots.IndicesOf(job.id());
  if (!read.empty()) return dataset.Unsealed(read).empty();
  return dataset.SealedTraining(job.spec().simulate().triples()) >= TrainingThreshold(job.spec());
}

std::vector<TrainDemand> TrainDemands(const ClusterParts& parts, Moment now) {
  static const int64_t kMostRanks =
      spec::Largest(*common::v1::TrainSpec::descriptor(), "max_ranks");
  std::vector<TrainDemand> demands;
  for (const auto& [sequence, job] : parts.jobs.live()) {
    if (!WantsGeneration(*job, parts, now)) continue;
    const auto& train = job->spec().train();
    TrainDemand& demand = demands.emplace_back();
    demand.job = job->id();
    demand.min_ranks = train.min_ranks();
    // Every rank has at least one triple of a batch.
    const int64_t most = train.max_ranks() == 0 ? kMostRanks : train.max_ranks();
    demand.max_ranks = static_cast<int32_t>(std::min<int64_t>(most, train.global_batch()));
    const auto* last = parts.checkpoints.Last(job->id());
    demand.resume_step = last == nullptr ? 0 : last->step();
  }
  return demands;
}

}  // namespace d2g::coordinator

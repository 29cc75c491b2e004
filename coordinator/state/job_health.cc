#include "coordinator/state/job_health.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "coordinator/rows/limits.h"
#include "coordinator/state/task_choice.h"
#include "coordinator/state/train_demand.h"

namespace d2g::coordinator {

using rows::v1::FailureRow;
using rows::v1::JobRow;

namespace {

using Lines = std::vector<std::string>;

// Whether a worker takes such tasks; adds a line when none does.
bool CheckOffered(int kind, const ClusterParts& parts, Lines* lines) {
  const bool offered = parts.workers.Offered(kind, {});
  if (!offered) lines->push_back(absl::StrCat("no workers that ", FactsOf(kind).verb));
  return offered;
}

void AddSimulateHealth(const JobRow& job, const ClusterParts& parts, Lines* lines) {
  if (CheckOffered(v1::TASK_KIND_SIMULATE, parts, lines) && NeedsGpu(job, parts.datasets) &&
      !parts.workers.GpuSimulates()) {
    lines->push_back("no workers with a GPU, which simulate.solver.compute_dtype needs");
  }
}

// Ranks that are starting, or that take long to.
void AddStartHealth(const JobRow& job, const GangTable& gangs, Moment now, Lines* lines) {
  if (const auto awaited = gangs.FirstAwaited(job.id(), now.steady);
      awaited.has_value() && awaited->waiting >= kSlowStart) {
    lines->push_back(absl::StrCat(
        "waits for ranks of node ", awaited->node, " (agent ", awaited->agent, ") to start: for ",
        absl::FormatDuration(absl::Trunc(awaited->waiting, kSlowStart)), " of at most ",
        absl::FormatDuration(gangs.options().start_timeout)));
  } else if (gangs.Active(job.id()) && gangs.RanksOf(job.id()).empty()) {
    lines->push_back("ranks are starting");
  }
}

void AddTrainHealth(const JobRow& job, const ClusterParts& parts, Moment now, Lines* lines) {
  const GangTable& gangs = parts.gangs;
  const dataset::IndexSet& read = parts.snapshots.IndicesOf(job.id());
  for (const auto& [shard, lost] : parts.datasets.At(job.dataset()).Unsealed(read)) {
    lines->push_back(absl::StrCat("training waits for ", lost, " of its ", read.size(),
                                  " triples to be simulated again on shard ", shard));
  }
  if (const auto awaited = AwaitedShards(job, parts, now);
      !awaited.empty() && !gangs.Active(job.id())) {
    lines->push_back(absl::StrCat("training waits for what is on shards that are down: ",
                                  absl::StrJoin(awaited, ", ")));
  }
  const int32_t needed = job.spec().train().min_ranks();
  if (WantsGeneration(job, parts, now)) {
    if (gangs.FreeSlots() < needed) {
      lines->push_back(
          absl::StrCat("no gang: ", gangs.FreeSlots(), " ranks are free, ", needed, " are needed"));
    }
  } else if (!gangs.Active(job.id()) && gangs.AllSlots() < needed) {
    // Known long before it holds anything up.
    lines->push_back(absl::StrCat("training will need ", needed,
                                  " ranks (train.min_ranks); all agents together have ",
                                  gangs.AllSlots()));
  }
  if (const rows::v1::GangRow* gang = gangs.Find(job.id());
      gang != nullptr && gang->failures() > 0) {
    // The reason first: lines are cut at their end.
    lines->push_back(absl::StrCat(gang->last_error(), "; training broke ", gang->failures(),
                                  " of at most ", kMaxBrokenGenerations,
                                  " times since the last checkpoint"));
  }
  AddStartHealth(job, gangs, now, lines);
}

void AddFinalHealth(const JobRow& job, const ClusterParts& parts, Lines* lines) {
  if (!job.has_export_()) CheckOffered(v1::TASK_KIND_EXPORT, parts, lines);
  const int32_t pictures = job.spec().evaluate().pictures();
  if (pictures == 0 || job.has_evaluation()) return;
  const int64_t holdout =
      parts.datasets.At(job.dataset()).SealedHoldout(job.spec().simulate().triples());
  if (holdout < pictures) {
    lines->push_back(absl::StrCat("evaluation waits for ", pictures, " held-out triples; ", holdout,
                                  " are sealed"));
  } else {
    CheckOffered(v1::TASK_KIND_EVALUATE, parts, lines);
  }
}

// Whether the store is all that a task still waits for that failed only because of it.
bool WaitsForStore(const JobRow& job, const FailureRow& failure, const ClusterParts& parts) {
  if (failure.kind() != v1::TASK_KIND_SIMULATE) {
    return parts.tasks.leases().First(failure.job(), failure.kind()) == nullptr;
  }
  const DatasetState& dataset = parts.datasets.At(job.dataset());
  return parts.shards.Refuses(dataset.ShardOf(failure.range().begin()));
}

// The first task of each trouble; ListTasks has them all.
void AddTaskHealth(const JobRow& job, const ClusterParts& parts, Lines* lines) {
  const TaskFailures& failures = parts.tasks.failures();
  if (const FailureRow* failed = failures.FirstCounted(job.id())) {
    lines->push_back(absl::StrCat("task ", failed->task(), " failed ", failed->reasons_size(),
                                  " times (", kMaxTaskFailures, " within no less than ",
                                  absl::FormatDuration(kTaskFailureSpan),
                                  " fail the job): ", failed->last_error()));
  }
  if (const FailureRow* waiting = failures.FirstStarved(job.id(), [&](const FailureRow& failure) {
        return WaitsForStore(job, failure, parts);
      })) {
    lines->push_back(
        absl::StrCat("task ", waiting->task(), " waits for the store: ", waiting->last_error()));
  }
  if (const FailureRow* stalled = failures.FirstStalled(job.id())) {
    lines->push_back(absl::StrCat("task ", stalled->task(), " lapsed ", stalled->lapses(),
                                  " times: ", stalled->last_error()));
  }
}

}  // namespace

std::vector<std::string> HealthOf(const JobRow& job, const ClusterParts& parts, Moment now) {
  Lines lines;
  const auto missing = parts.shards.Missing(now.steady);
  if (!missing.empty()) {
    lines.push_back(absl::StrCat(missing.size(), " of ", parts.shards.count(),
                                 " shards down: ", absl::StrJoin(missing, ", ")));
  }
  const int64_t triples = job.spec().simulate().triples();
  if (parts.datasets.At(job.dataset()).SealedCount(triples) < triples) {
    AddSimulateHealth(job, parts, &lines);
  }
  if (parts.checkpoints.TrainDone(job)) {
    AddFinalHealth(job, parts, &lines);
  } else {
    AddTrainHealth(job, parts, now, &lines);
  }
  AddTaskHealth(job, parts, &lines);
  return lines;
}

}  // namespace d2g::coordinator

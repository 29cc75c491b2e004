// Workers: who is there, and which task suits one.
#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "coordinator/rows/limits.h"
#include "coordinator/state/cluster_state.h"

namespace d2g::coordinator {

using namespace d2g::coordinator::v1;  // NOLINT: the resources that this file is about
using rows::v1::FailureRow;
using rows::v1::JobRow;
using rows::v1::LeaseRow;

ClusterState::Worker& ClusterState::NoteWorker(const WorkerInfo& info, Moment now) {
  Worker& worker = workers_[info.id()];
  worker.node = info.node();
  worker.has_gpu = absl::StartsWith(info.device(), "cuda");
  worker.last_seen = now.steady;
  return worker;
}

bool ClusterState::NeedsGpu(const JobRow& job) const {
  return datasets_.at(job.dataset()).recipe().solver().compute_dtype() !=
         d2g::common::v1::DTYPE_UNSPECIFIED;
}

bool ClusterState::GpuSimulates(Moment now) const {
  return std::any_of(workers_.begin(), workers_.end(), [&](const auto& item) {
    const Worker& worker = item.second;
    return worker.has_gpu && worker.kinds.contains(TASK_KIND_SIMULATE) &&
           now.steady - worker.last_seen <= kWorkerTimeout;
  });
}

bool ClusterState::Offered(int kind, const std::set<std::string>& other_than_nodes,
                           Moment now) const {
  for (const auto& [id, worker] : workers_) {
    if (worker.kinds.contains(kind) && !other_than_nodes.contains(worker.node) &&
        now.steady - worker.last_seen <= kWorkerTimeout) {
      return true;
    }
  }
  return false;
}

std::vector<const FailureRow*> ClusterState::FailuresOf(absl::string_view job) const {
  std::vector<const FailureRow*> failures;
  const std::string prefix = ChildPrefix(job);
  for (auto it = tables_.failures.rows().lower_bound(prefix);
       it != tables_.failures.rows().end() && it->first.compare(0, prefix.size(), prefix) == 0;
       ++it) {
    failures.push_back(&it->second);
  }
  return failures;
}

// A task that failed on a worker's node goes elsewhere, as long as there is an elsewhere: a node on
// which it has not failed.
bool ClusterState::Avoid(const FailureRow& failure, const Worker& worker, Moment now) const {
  std::set<std::string> nodes;
  for (const auto& reason : failure.reasons()) nodes.insert(reason.node());
  return nodes.contains(worker.node) && Offered(failure.kind(), nodes, now);
}

bool ClusterState::Waits(const FailureRow& failure, const Worker& worker, Moment now) const {
  const auto it = not_before_.find(ChildId(failure.job(), failure.task()));
  return (it != not_before_.end() && now.steady < it->second) || Avoid(failure, worker, now);
}

FailureRow& ClusterState::FailureOf(const LeaseRow& lease) {
  FailureRow& failure = tables_.failures.Mutable(ChildId(lease.job(), lease.task()));
  failure.set_job(lease.job());
  failure.set_task(lease.task());
  failure.set_kind(lease.kind());
  *failure.mutable_range() = lease.range();
  return failure;
}

const LeaseRow* ClusterState::LeaseOf(absl::string_view job, int kind) const {
  for (const auto& [id, progress] : leases_.live()) {
    const LeaseRow* lease = leases_.Find(id);
    if (lease->job() == job && lease->kind() == kind) return lease;
  }
  return nullptr;
}

bool ClusterState::Runnable(const JobRow& job, int kind) const {
  if (!AtWork(job) || !TrainDone(job) || LeaseOf(job.id(), kind) != nullptr) return false;
  if (kind == TASK_KIND_EXPORT) return !job.has_export_();
  const int32_t pictures = job.spec().evaluate().pictures();
  return pictures > 0 && !job.has_evaluation() &&
         datasets_.at(job.dataset()).SealedHoldout(job.spec().simulate().triples()) >= pictures;
}

bool ClusterState::Pick(const JobRow& job, int kind, const Worker& worker, Moment now,
                        LeaseRow* lease) const {
  // Leases are looked through only where it matters.
  const bool leased = trials_.OnTrial(job.id(), kind) && LeaseOf(job.id(), kind) != nullptr;
  if (trials_.Waits(job.id(), kind, worker.node, leased, now.steady)) return false;
  return kind == TASK_KIND_SIMULATE ? PickSimulate(job, worker, now, lease)
                                    : PickFinal(job, kind, worker, now, lease);
}

bool ClusterState::PickFinal(const JobRow& job, int kind, const Worker& worker, Moment now,
                             LeaseRow* lease) const {
  if (!Runnable(job, kind)) return false;
  lease->set_task(-1);
  for (const FailureRow* failure : FailuresOf(job.id())) {
    if (failure->kind() != kind) continue;
    if (Waits(*failure, worker, now)) return false;
    lease->set_task(failure->task());
  }
  const Checkpoint* checkpoint = LastCheckpoint(job.id());
  lease->set_checkpoint_path(checkpoint->path());
  lease->set_checkpoint_step(checkpoint->step());
  return true;
}

bool ClusterState::PickSimulate(const JobRow& job, const Worker& worker, Moment now,
                                LeaseRow* lease) const {
  if (NeedsGpu(job) && !worker.has_gpu) return false;
  std::vector<const FailureRow*> failures = FailuresOf(job.id());
  std::erase_if(failures, [](const FailureRow* f) { return f->kind() != TASK_KIND_SIMULATE; });
  const DatasetState& dataset = datasets_.at(job.dataset());
  const auto takes_appends = [&](int32_t shard) { return shards_.TakesAppends(shard, now.steady); };
  // Where the job insists on what failed before: the end of the last such range that could go on.
  int64_t end_of_failed = 0;
  for (const FailureRow* failure : failures) {
    if (takes_appends(dataset.ShardOf(failure->range().begin()))) {
      end_of_failed = std::max(end_of_failed, failure->range().end());
    }
  }
  const bool only_failed = end_of_failed > 0 && trials_.Insists(job.id(), TASK_KIND_SIMULATE);
  const int64_t triples = job.spec().simulate().triples();
  const int64_t limit = only_failed ? std::min(triples, end_of_failed) : triples;
  int64_t task = -1;
  const auto fit = [&](DatasetState::Range open) {
    // A range that failed before is leased as it was, under its old number.
    DatasetState::Fit fitted{open.second, !only_failed};
    task = -1;
    for (const FailureRow* failure : failures) {
      const auto& range = failure->range();
      if (range.begin() <= open.first && open.first < range.end()) {
        fitted.end = std::min(fitted.end, range.end());
        fitted.take = !Waits(*failure, worker, now);
        task = failure->task();
      } else if (open.first < range.begin() && range.begin() < fitted.end) {
        fitted.end = range.begin();
      }
    }
    return fitted;
  };
  const auto range = dataset.FindOpen(limit, job.spec().simulate().task_size(), takes_appends, fit);
  if (!range.has_value()) return false;
  lease->set_task(task);
  lease->mutable_range()->set_begin(range->first);
  lease->mutable_range()->set_end(range->second);
  return true;
}

}  // namespace d2g::coordinator

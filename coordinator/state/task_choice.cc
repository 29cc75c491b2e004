#include "coordinator/state/task_choice.h"

#include <algorithm>
#include <set>
#include <string>

namespace d2g::coordinator {

using rows::v1::FailureRow;
using rows::v1::JobRow;
using rows::v1::LeaseRow;

namespace {

// One worker's question.
class Choice {
 public:
  Choice(const Worker& worker, const ClusterParts& parts, absl::Duration now)
      : worker_(worker), parts_(parts), tasks_(parts.tasks), now_(now) {}

  // Fills in a lease of the job; false when there is none now.
  bool Pick(const JobRow& job, int kind, LeaseRow* lease) const {
    const JobTrials& trials = tasks_.trials();
    const bool leased =
        trials.OnTrial(job.id(), kind) && tasks_.leases().First(job.id(), kind) != nullptr;
    if (trials.Waits(job.id(), kind, worker_.node, leased, now_)) return false;
    return kind == v1::TASK_KIND_SIMULATE ? PickSimulate(job, lease) : PickFinal(job, kind, lease);
  }

 private:
  // Whether the task waits out its back-off, or had better run on another node: one on which it has
  // not failed, as long as there is such a node.
  bool Waits(const FailureRow& failure) const {
    if (tasks_.failures().BacksOff(failure, now_)) return true;
    std::set<std::string> nodes;
    for (const auto& reason : failure.reasons()) nodes.insert(reason.node());
    return nodes.contains(worker_.node) && parts_.workers.Offered(failure.kind(), nodes);
  }

  bool Runnable(const JobRow& job, int kind) const {
    if (!parts_.checkpoints.TrainDone(job) || tasks_.leases().First(job.id(), kind) != nullptr) {
      return false;
    }
    if (kind == v1::TASK_KIND_EXPORT) return !job.has_export_();
    const int32_t pictures = job.spec().evaluate().pictures();
    return pictures > 0 && !job.has_evaluation() &&
           parts_.datasets.At(job.dataset()).SealedHoldout(job.spec().simulate().triples()) >=
               pictures;
  }

  bool PickFinal(const JobRow& job, int kind, LeaseRow* lease) const {
    if (!Runnable(job, kind)) return false;
    lease->set_task(-1);
    for (const FailureRow* failure : tasks_.failures().OfKind(job.id(), kind)) {
      if (Waits(*failure)) return false;
      lease->set_task(failure->task());
    }
    const auto* checkpoint = parts_.checkpoints.Last(job.id());
    lease->set_checkpoint_path(checkpoint->path());
    lease->set_checkpoint_step(checkpoint->step());
    return true;
  }

  bool TakesAppends(const DatasetState& dataset, int64_t index) const {
    return parts_.shards.TakesAppends(dataset.ShardOf(index), now_);
  }

  // Where the job insists on what failed before: the end of the last such range that could go on.
  std::optional<int64_t> EndOfFailed(const JobRow& job, const DatasetState& dataset) const {
    const TaskFailures& failures = tasks_.failures();
    const auto& ranges = failures.RangesOf(job.id());
    const auto last = std::find_if(ranges.rbegin(), ranges.rend(), [&](const auto& range) {
      return TakesAppends(dataset, range.first);
    });
    if (last == ranges.rend()) return std::nullopt;
    return failures.Of(job.id(), last->second).range().end();
  }

  bool PickSimulate(const JobRow& job, LeaseRow* lease) const {
    if (NeedsGpu(job, parts_.datasets) && !worker_.has_gpu) return false;
    const DatasetState& dataset = parts_.datasets.At(job.dataset());
    const int64_t triples = job.spec().simulate().triples();
    std::optional<int64_t> end_of_failed;
    if (tasks_.trials().Insists(job.id(), v1::TASK_KIND_SIMULATE)) {
      end_of_failed = EndOfFailed(job, dataset);
    }
    const bool only_failed = end_of_failed.has_value();
    int64_t task = -1;
    const auto fit = [&](DatasetState::Range open) {
      task = -1;
      // A range that failed before is leased as it was, under its old number.
      if (const FailureRow* failure = tasks_.failures().At(job.id(), open.first)) {
        task = failure->task();
        return DatasetState::Fit{std::min(open.second, failure->range().end()), !Waits(*failure)};
      }
      const auto next = tasks_.failures().NextBegin(job.id(), open.first);
      return DatasetState::Fit{std::min(open.second, next.value_or(open.second)), !only_failed};
    };
    const auto range = dataset.FindOpen(
        only_failed ? std::min(triples, *end_of_failed) : triples,
        job.spec().simulate().task_size(),
        [&](int32_t shard) { return parts_.shards.TakesAppends(shard, now_); }, fit);
    if (!range.has_value()) return false;
    lease->set_task(task);
    lease->mutable_range()->set_begin(range->first);
    lease->mutable_range()->set_end(range->second);
    return true;
  }

  const Worker& worker_;
  const ClusterParts& parts_;
  const Tasks& tasks_;
  const absl::Duration now_;
};

}  // namespace

bool NeedsGpu(const JobRow& job, const Datasets& datasets) {
  return datasets.At(job.dataset()).recipe().solver().compute_dtype() !=
         common::v1::DTYPE_UNSPECIFIED;
}

std::optional<LeaseRow> ChooseTask(const Worker& worker, const ClusterParts& parts,
                                   absl::Duration now) {
  const Choice choice(worker, parts, now);
  for (const bool behind : {false, true}) {
    for (const auto& [sequence, job] : parts.jobs.live()) {
      if (!AtWork(*job)) continue;
      for (const TaskKindFacts& facts : kTaskKinds) {
        if (!worker.kinds.contains(facts.kind) ||
            parts.tasks.trials().StandsBehind(job->id(), facts.kind, now) != behind) {
          continue;
        }
        LeaseRow lease;
        if (!choice.Pick(*job, facts.kind, &lease)) continue;
        lease.set_job(job->id());
        lease.set_kind(facts.kind);
        lease.set_dataset(job->dataset());
        return lease;
      }
    }
  }
  return std::nullopt;
}

}  // namespace d2g::coordinator

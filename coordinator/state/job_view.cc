// A job as its users see it: progress by stage, rates, health.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "coordinator/rows/limits.h"
#include "coordinator/state/cluster_state.h"
#include "coordinator/state/timestamps.h"

namespace d2g::coordinator {

using namespace d2g::coordinator::v1;  // NOLINT: the resources that this file is about
using rows::v1::FailureRow;
using rows::v1::JobRow;

namespace {

// Beyond this an estimate says nothing.
constexpr double kMaxEtaSeconds = 1e9;
// Lapses of one task that are worth a word: a worker that was killed makes one.
constexpr int kManyLapses = 2;

StageProgress& AddStage(const JobRow& job, Stage kind, const char* unit, Job* view) {
  StageProgress& stage = *view->add_stages();
  stage.set_stage(kind);
  stage.set_unit(unit);
  if (const auto times = job.stages().find(kind); times != job.stages().end()) {
    if (times->second.has_start_time()) *stage.mutable_start_time() = times->second.start_time();
    if (times->second.has_end_time()) *stage.mutable_end_time() = times->second.end_time();
  }
  return stage;
}

void AddRate(const RateMeter& meter, StageProgress* stage) {
  if (stage->has_end_time()) return;
  stage->set_rate(std::max(0.0, meter.Rate()));
  const double seconds =
      static_cast<double>(stage->total() - stage->done()) / std::max(stage->rate(), 1e-12);
  if (stage->rate() > 0 && seconds < kMaxEtaSeconds) {
    *stage->mutable_eta() = ToProtoDuration(absl::Seconds(std::max(0.0, std::round(seconds))));
  }
}

}  // namespace

// Triples that live leases of the dataset made durable and that are not sealed yet.
int64_t ClusterState::LeasedDone(const JobRow& job) const {
  int64_t done = 0;
  const int64_t triples = job.spec().simulate().triples();
  for (const auto& [id, progress] : leases_.live()) {
    const auto& lease = *leases_.Find(id);
    if (lease.kind() != TASK_KIND_SIMULATE || lease.dataset() != job.dataset() ||
        lease.range().begin() >= triples) {
      continue;
    }
    done += std::clamp<int64_t>(progress.done, 0,
                                std::min(triples, lease.range().end()) - lease.range().begin());
  }
  return done;
}

void ClusterState::AddStages(const JobRow& job, Job* view) const {
  const JobSpec& spec = job.spec();
  StageProgress& simulate = AddStage(job, STAGE_SIMULATE, "triples", view);
  simulate.set_total(spec.simulate().triples());
  simulate.set_reused(job.reused());
  const DatasetState* dataset = FindDataset(job.dataset());
  simulate.set_done(
      HasEnded(job) || dataset == nullptr
          ? job.simulated()
          : std::min(simulate.total(), dataset->SealedCount(simulate.total()) + LeasedDone(job)));

  StageProgress& train = AddStage(job, STAGE_TRAIN, "steps", view);
  train.set_total(spec.train().steps());
  const Checkpoint* last = LastCheckpoint(job.id());
  train.set_done(last == nullptr ? 0 : last->step());
  for (const auto& [rank, status] : gangs_.RanksOf(job.id())) {
    if (status.step() <= train.total()) train.set_done(std::max(train.done(), status.step()));
  }

  StageProgress& xport = AddStage(job, STAGE_EXPORT, "files", view);
  StageProgress* evaluate = nullptr;
  if (spec.evaluate().pictures() > 0) evaluate = &AddStage(job, STAGE_EVALUATE, "pictures", view);
  // What the holder of the task reports; null when nobody does.
  const auto progress_of = [&](int kind) -> const LeaseTable::Progress* {
    const auto* lease = HasEnded(job) ? nullptr : LeaseOf(job.id(), kind);
    return lease == nullptr ? nullptr : leases_.FindProgress(lease->lease_id());
  };
  if (job.has_export_()) {
    xport.set_total(std::max<int64_t>(1, job.exported_files()));
    xport.set_done(xport.total());
  } else if (const auto* progress = progress_of(TASK_KIND_EXPORT)) {
    xport.set_total(progress->total);  // unknown before
    xport.set_done(std::clamp<int64_t>(progress->done, 0, progress->total));
  }
  if (evaluate == nullptr) return;
  // As the user counts, though a worker makes each picture with several models.
  evaluate->set_total(spec.evaluate().pictures());
  if (job.has_evaluation()) {
    evaluate->set_done(evaluate->total());
  } else if (const auto* progress = progress_of(TASK_KIND_EVALUATE);
             progress != nullptr && progress->total > 0) {
    const double share = static_cast<double>(progress->done) / static_cast<double>(progress->total);
    evaluate->set_done(
        std::clamp<int64_t>(static_cast<int64_t>(share * static_cast<double>(evaluate->total())), 0,
                            evaluate->total()));
  }
}

void ClusterState::AddHealth(const JobRow& job, Moment now, Job* view) const {
  const auto missing = shards_.Missing(now.steady);
  if (!missing.empty()) {
    view->add_health(absl::StrCat(missing.size(), " of ", shards_.count(),
                                  " shards down: ", absl::StrJoin(missing, ", ")));
  }
  const int64_t triples = job.spec().simulate().triples();
  const DatasetState& dataset = datasets_.at(job.dataset());
  const bool simulated = dataset.SealedCount(triples) == triples;
  if (!simulated && !Offered(TASK_KIND_SIMULATE, {}, now)) {
    view->add_health("no workers that simulate");
  } else if (!simulated && NeedsGpu(job) && !GpuSimulates(now)) {
    view->add_health("no workers with a GPU, which simulate.solver.compute_dtype needs");
  }
  if (!TrainDone(job)) {
    AddTrainHealth(job, now, view);
  } else {
    if (!job.has_export_() && !Offered(TASK_KIND_EXPORT, {}, now)) {
      view->add_health("no workers that export");
    }
    if (job.spec().evaluate().pictures() > 0 && !job.has_evaluation()) {
      const int64_t holdout = dataset.SealedHoldout(triples);
      if (holdout < job.spec().evaluate().pictures()) {
        view->add_health(absl::StrCat("evaluation waits for ", job.spec().evaluate().pictures(),
                                      " held-out triples; ", holdout, " are sealed"));
      } else if (!Offered(TASK_KIND_EVALUATE, {}, now)) {
        view->add_health("no workers that evaluate");
      }
    }
  }
  AddTaskHealth(job, view);
}

void ClusterState::AddTrainHealth(const JobRow& job, Moment now, Job* view) const {
  const dataset::IntervalSet read = SnapshotIndices(job.id());
  for (const auto& [shard, lost] : datasets_.at(job.dataset()).Unsealed(read)) {
    view->add_health(absl::StrCat("training waits for ", lost, " of its ", read.size(),
                                  " triples to be simulated again on shard ", shard));
  }
  if (const auto awaited = AwaitedShards(job, now); !awaited.empty() && !gangs_.Active(job.id())) {
    view->add_health(absl::StrCat("training waits for what is on shards that are down: ",
                                  absl::StrJoin(awaited, ", ")));
  }
  const int32_t needed = job.spec().train().min_ranks();
  if (WantsGeneration(job, now)) {
    if (gangs_.FreeSlots() < needed) {
      view->add_health(absl::StrCat("no gang: ", gangs_.FreeSlots(), " ranks are free, ", needed,
                                    " are needed"));
    }
  } else if (!gangs_.Active(job.id()) && gangs_.AllSlots() < needed) {
    // Known long before it holds anything up.
    view->add_health(absl::StrCat("training will need ", needed,
                                  " ranks (train.min_ranks); all agents together have ",
                                  gangs_.AllSlots()));
  }
  if (const rows::v1::GangRow* gang = gangs_.Find(job.id());
      gang != nullptr && gang->failures() > 0) {
    // The reason first: lines are cut at their end.
    view->add_health(absl::StrCat(gang->last_error(), "; training broke ", gang->failures(),
                                  " of at most ", kMaxBrokenGenerations,
                                  " times since the last checkpoint"));
  }
  if (const auto awaited = gangs_.FirstAwaited(job.id(), now.steady);
      awaited.has_value() && awaited->waiting >= kSlowStart) {
    view->add_health(absl::StrCat(
        "waits for ranks of node ", awaited->node, " (agent ", awaited->agent, ") to start: for ",
        absl::FormatDuration(absl::Trunc(awaited->waiting, kSlowStart)), " of at most ",
        absl::FormatDuration(gangs_.options().start_timeout)));
  } else if (gangs_.Active(job.id()) && gangs_.RanksOf(job.id()).empty()) {
    view->add_health("ranks are starting");
  }
}

bool ClusterState::WaitsForStore(const FailureRow& failure) const {
  if (failure.reasons_size() > 0 || failure.store_failures() == 0) return false;
  if (failure.kind() != TASK_KIND_SIMULATE) {
    return LeaseOf(failure.job(), failure.kind()) == nullptr;
  }
  const JobRow& job = *tables_.jobs.Find(failure.job());
  return shards_.Refuses(datasets_.at(job.dataset()).ShardOf(failure.range().begin()));
}

// The first task of each trouble; ListTasks has them all.
void ClusterState::AddTaskHealth(const JobRow& job, Job* view) const {
  const FailureRow* failed = nullptr;
  const FailureRow* waiting = nullptr;
  const FailureRow* stalled = nullptr;
  for (const FailureRow* failure : FailuresOf(job.id())) {
    if (failed == nullptr && failure->reasons_size() > 0) failed = failure;
    if (waiting == nullptr && WaitsForStore(*failure)) waiting = failure;
    if (stalled == nullptr && failure->lapses() >= kManyLapses) stalled = failure;
  }
  if (failed != nullptr) {
    view->add_health(absl::StrCat("task ", failed->task(), " failed ", failed->reasons_size(),
                                  " times (", kMaxTaskFailures, " within no less than ",
                                  absl::FormatDuration(kTaskFailureSpan),
                                  " fail the job): ", failed->last_error()));
  }
  if (waiting != nullptr) {
    view->add_health(
        absl::StrCat("task ", waiting->task(), " waits for the store: ", waiting->last_error()));
  }
  if (stalled != nullptr) {
    view->add_health(absl::StrCat("task ", stalled->task(), " lapsed ", stalled->lapses(),
                                  " times: ", stalled->last_error()));
  }
}

Job ClusterState::View(const JobRow& job, Moment now) const {
  Job view;
  view.set_name(JobName(job.id()));
  *view.mutable_spec() = job.spec();
  view.set_dataset(DatasetName(job.dataset()));
  view.set_desired_state(job.desired_state());
  view.set_state(job.state());
  view.set_error(job.error());
  *view.mutable_create_time() = job.create_time();
  *view.mutable_update_time() = job.update_time();
  AddStages(job, &view);
  if (const auto rates = rates_.find(job.id()); rates != rates_.end() && AtWork(job)) {
    for (StageProgress& stage : *view.mutable_stages()) {
      AddRate(rates->second.by_stage[stage.stage()], &stage);
    }
  }
  if (const Checkpoint* last = LastCheckpoint(job.id())) view.set_checkpoint_step(last->step());
  if (const auto* gang = gangs_.Find(job.id())) view.set_generation(gang->generation());
  // The lowest rank that reports speaks for all.
  for (const auto& [rank, status] : gangs_.RanksOf(job.id())) {
    if (status.metrics().empty()) continue;
    int taken = 0;
    for (const auto& [name, value] : status.metrics()) {
      if (++taken > kMaxReportedMetrics) break;
      (*view.mutable_training_metrics())[name] = value;
    }
    break;
  }
  if (job.has_evaluation()) *view.mutable_evaluation() = job.evaluation();
  if (job.has_export_()) *view.mutable_export_() = job.export_();
  view.set_output_replaced_by(job.output_replaced_by());
  if (AtWork(job)) AddHealth(job, now, &view);
  return view;
}

}  // namespace d2g::coordinator

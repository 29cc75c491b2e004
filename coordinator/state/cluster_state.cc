#include "coordinator/state/cluster_state.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/state/job_stages.h"
#include "coordinator/state/train_demand.h"

namespace d2g::coordinator {

using rows::v1::JobRow;
using rows::v1::LeaseRow;
using v1::Job;

namespace {

// Decisions and ticks come at least every kTick; this much silence means that the process stood
// still.
constexpr absl::Duration kStoodStill = absl::Seconds(3);

}  // namespace

ClusterState::ClusterState(ClusterOptions options, AuditedRows rows, Moment now)
    : options_(std::move(options)),
      jobs_(std::move(rows.tables.jobs)),
      prompt_lists_(std::move(rows.tables.prompt_lists)),
      datasets_(std::move(rows.tables.datasets), std::move(rows.tables.seals),
                std::move(rows.tables.dropped), std::move(rows.datasets)),
      snapshots_(std::move(rows.tables.snapshots)),
      checkpoints_(std::move(rows.tables.checkpoints)),
      tasks_(options_.lease_duration, options_.incarnation, std::move(rows.tables.leases),
             std::move(rows.tables.failures), now.steady),
      workers_(options_.lease_duration),
      shards_(options_.shard_count, std::move(rows.tables.shards), now.steady),
      gangs_(options_.gang, std::move(rows.tables.gangs), now.steady),
      last_time_(now.steady) {
  for (UnusableRow& unusable : rows.unusable) {
    notes_.Error("a row cannot be used; it is set aside", "",
                 absl::StrCat(unusable.row.key, ": ", unusable.why));
    set_aside_.push_back(std::move(unusable.row));
  }
}

std::unique_ptr<ClusterState> ClusterState::Load(ClusterOptions options, const RowChanges& rows,
                                                 Moment now) {
  std::unique_ptr<ClusterState> state(new ClusterState(std::move(options), AuditRows(rows), now));
  state->Restore(now);
  return state;
}

void ClusterState::Restore(Moment now) {
  for (const auto& [id, lease] : tasks_.leases().live()) {
    if (lease.row->kind() == v1::TASK_KIND_SIMULATE) datasets_.Lease(*lease.row);
  }
  const Jobs::Live live = jobs_.live();  // EndJob changes it
  for (const auto& [sequence, job] : live) {
    if (checkpoints_.TrainDone(*job)) gangs_.Finish(job->id(), now.steady);
    if (const DatasetState* dataset = datasets_.Find(job->dataset()); dataset != nullptr) {
      tasks_.NoteSealed(job->id(), dataset->sealed(), 0, std::numeric_limits<int64_t>::max());
      continue;
    }
    EndJob(*job, Job::STATE_FAILED,
           absl::StrCat("the coordinator's row of ", DatasetName(job->dataset()),
                        " could not be read; submit the job again: the store still has its "
                        "triples"),
           now);
  }
}

template <typename State, typename Visit>
void ClusterState::ForEachPartWithRows(State& state, Visit visit) {
  visit(state.jobs_);
  visit(state.prompt_lists_);
  visit(state.datasets_);
  visit(state.snapshots_);
  visit(state.checkpoints_);
  visit(state.tasks_);
  visit(state.shards_);
  visit(state.gangs_);
}

RowChanges ClusterState::TakeChanges() {
  RowChanges changes = std::exchange(set_aside_, {});
  ForEachPartWithRows(*this, [&](auto& part) { part.TakeChanges(&changes); });
  return changes;
}

RowChanges ClusterState::AllRows() const {
  RowChanges all;
  ForEachPartWithRows(*this, [&](const auto& part) { part.CopyTo(&all); });
  return all;
}

void ClusterState::NoteTime(absl::Duration now) {
  if (now - last_time_ > kStoodStill) {
    notes_.Warn("this process stood still; leases have their full time again", "",
                absl::FormatDuration(now - last_time_));
    tasks_.Grace(now);
    gangs_.Grace(now);
    shards_.Grace(now);
    workers_.Grace(now);
  }
  last_time_ = std::max(last_time_, now);
  workers_.NoteTime(now);
}

void ClusterState::Tick(Moment now) {
  LapseLeases(now);
  HandleGangEvents(gangs_.Tick(TrainDemands(parts(), now), now.steady), now);
  const Jobs::Live live = jobs_.live();  // Advance may end jobs
  for (const auto& [sequence, job] : live) {
    Advance(*job, now);
    SampleRates(*job, now);
  }
}

void ClusterState::SampleRates(const JobRow& job, Moment now) {
  if (!AtWork(job)) {
    rates_.Erase(job.id());
    return;
  }
  const auto* gang = gangs_.Find(job.id());
  const int64_t generation = gang == nullptr || !gang->active() ? 0 : gang->generation();
  rates_.Sample(job.id(), generation, StagesOf(job, parts()), now.steady);
}

void ClusterState::LapseLeases(Moment now) {
  for (const int64_t id : tasks_.leases().Lapsed(now.steady)) {
    const LeaseRow lease = *tasks_.leases().Find(id);
    const std::string error =
        absl::StrCat("worker ", lease.worker().id(), " on node ", lease.worker().node(),
                     " made no progress for ", absl::FormatDuration(tasks_.leases().duration()));
    tasks_.NoteLapse(lease, error, now.steady);
    ++totals_.lapsed[lease.kind()];
    notes_.Warn("lease lapsed", lease.job(),
                absl::StrCat(DescribeTask(lease.kind(), lease.range()), ": ", error));
    Release(id);
    ForgetIfSealed(lease);
  }
}

void ClusterState::Release(int64_t id) {
  const LeaseRow* lease = tasks_.leases().Find(id);
  if (lease == nullptr) return;
  if (lease->kind() == v1::TASK_KIND_SIMULATE) datasets_.Release(*lease);
  tasks_.Release(id);
}

void ClusterState::ForgetIfSealed(const LeaseRow& lease) {
  if (lease.kind() != v1::TASK_KIND_SIMULATE || HasEnded(*jobs_.Find(lease.job()))) return;
  tasks_.NoteSealed(lease.job(), datasets_.At(lease.dataset()).sealed(), lease.range().begin(),
                    lease.range().end());
}

void ClusterState::Advance(const JobRow& job, Moment now) {
  if (HasEnded(job)) return;
  const std::string& id = job.id();
  if (job.desired_state() == Job::DESIRED_STATE_PAUSED && job.state() == Job::STATE_RUNNING &&
      !gangs_.Active(id)) {
    jobs_.SetState(id, Job::STATE_PAUSED, now);
  }
  const int64_t triples = job.spec().simulate().triples();
  const bool simulated = datasets_.At(job.dataset()).SealedCount(triples) == triples;
  if (simulated) {
    jobs_.EndStage(id, v1::STAGE_SIMULATE, now);
  } else {
    jobs_.ReopenStage(id, v1::STAGE_SIMULATE, now);  // a shard lost triples
  }
  const bool trained = checkpoints_.TrainDone(job);
  if (trained) jobs_.EndStage(id, v1::STAGE_TRAIN, now);
  if (job.has_export_()) jobs_.EndStage(id, v1::STAGE_EXPORT, now);
  if (job.has_evaluation()) jobs_.EndStage(id, v1::STAGE_EVALUATE, now);
  const bool evaluated = job.spec().evaluate().pictures() == 0 || job.has_evaluation();
  if (simulated && trained && job.has_export_() && evaluated &&
      job.desired_state() == Job::DESIRED_STATE_RUNNING) {
    EndJob(job, Job::STATE_SUCCEEDED, "", now);
  }
}

void ClusterState::AdvanceUsersOf(const std::string& dataset, int64_t begin, int64_t end,
                                  Moment now) {
  const dataset::IndexSet& sealed = datasets_.At(dataset).sealed();
  for (const auto& [sequence, job] : jobs_.LiveUsersOf(dataset)) {
    tasks_.NoteSealed(job->id(), sealed, begin, end);
    Advance(*job, now);
  }
}

void ClusterState::EndJob(const JobRow& job, Job::State state, std::string error, Moment now) {
  if (HasEnded(job)) return;
  const std::string& id = job.id();
  const std::string detail = absl::StrCat(StateText(state), error.empty() ? "" : ": ", error);
  if (state == Job::STATE_FAILED) {
    notes_.Error("job ended", id, detail);
  } else {
    notes_.Info("job ended", id, detail);
  }
  std::optional<int64_t> simulated;
  if (const DatasetState* dataset = datasets_.Find(job.dataset()); dataset != nullptr) {
    simulated = dataset->SealedCount(job.spec().simulate().triples());
  }
  jobs_.End(id, state, std::move(error), simulated, now);
  for (const int64_t lease : tasks_.leases().OfJob(id)) Release(lease);
  gangs_.Kill(id, now.steady);
  rates_.Erase(id);
  tasks_.NoteEnded(id);
}

ClusterFigures ClusterState::Figures(Moment now) const {
  ClusterFigures figures = totals_;
  for (int state = 0; state < ClusterFigures::kStates; ++state) {
    figures.jobs[state] = jobs_.CountIn(static_cast<Job::State>(state));
  }
  for (int kind = 0; kind < ClusterFigures::kKinds; ++kind) {
    figures.live_leases[kind] = tasks_.leases().CountOf(kind);
  }
  figures.live_workers = workers_.live_count();
  figures.live_shards = static_cast<int64_t>(shards_.LiveShards(now.steady).size());
  figures.agents = static_cast<int64_t>(gangs_.agent_count());
  for (const auto& [sequence, job] : jobs_.live()) {
    const auto& ranks = gangs_.RanksOf(job->id());
    figures.ranks_running += static_cast<int64_t>(ranks.size());
    if (figures.training_step == 0 && !ranks.empty()) {
      figures.training_step = ranks.begin()->second.step();
    }
  }
  figures.sealed_triples = datasets_.sealed_triples();
  return figures;
}

}  // namespace d2g::coordinator

#include "coordinator/state/cluster_state.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/rows/limits.h"

namespace d2g::coordinator {

using d2g::common::LogLevel;
using d2g::coordinator::v1::Job;
using d2g::coordinator::v1::STAGE_TRAIN;
using rows::v1::JobRow;

namespace {

// Decisions and ticks come at least every kTick; this much silence means that the process stood
// still.
constexpr absl::Duration kStoodStill = absl::Seconds(3);

}  // namespace

ClusterState::Rates::Rates()
    : by_stage(d2g::coordinator::v1::Stage_ARRAYSIZE, RateMeter(kRateWindow)) {}

ClusterState::ClusterState(ClusterOptions options, AuditedRows rows, Moment now)
    : options_(std::move(options)),
      tables_(std::move(rows.tables)),
      datasets_(std::move(rows.datasets)),
      leases_(options_.lease_duration, options_.incarnation, &tables_, now.steady),
      shards_(options_.shard_count, &tables_, now.steady),
      gangs_(options_.gang, &tables_, now.steady),
      last_time_(now.steady) {
  for (UnusableRow& unusable : rows.unusable) {
    Tell(LogLevel::kError, "a row cannot be used; it is set aside", "",
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
  std::vector<std::string> without_dataset;
  std::vector<std::string> without_sequence;
  std::set<int64_t> sequences;
  for (const auto& [id, row] : tables_.jobs.rows()) {
    next_sequence_ = std::max(next_sequence_, row.sequence() + 1);
    if (!row.request_id().empty()) requests_[row.request_id()] = id;
    // One that was set aside and put back may have met its successor.
    if (!sequences.insert(row.sequence()).second) without_sequence.push_back(id);
  }
  for (const std::string& id : without_sequence) {
    tables_.jobs.Mutable(id).set_sequence(next_sequence_++);
  }
  for (const auto& [id, row] : tables_.jobs.rows()) {
    if (HasEnded(row)) continue;
    live_jobs_[row.sequence()] = id;
    rates_[id];
    if (TrainDone(row)) gangs_.Finish(id, now.steady);
    if (!datasets_.contains(row.dataset())) without_dataset.push_back(id);
  }
  for (const auto& [id, row] : tables_.leases.rows()) {
    if (row.kind() == d2g::coordinator::v1::TASK_KIND_SIMULATE) {
      datasets_.at(row.dataset()).Lease(row.range().begin(), row.range().end());
    }
  }
  for (const std::string& id : without_dataset) {
    EndJob(
        id, Job::STATE_FAILED,
        absl::StrCat("the coordinator's row of ", DatasetName(tables_.jobs.Find(id)->dataset()),
                     " could not be read; submit the job again: the store still has its triples"),
        now);
  }
}

RowChanges ClusterState::TakeChanges() {
  RowChanges changes = std::exchange(set_aside_, {});
  RowChanges written = tables_.TakeChanges();
  changes.insert(changes.end(), std::make_move_iterator(written.begin()),
                 std::make_move_iterator(written.end()));
  return changes;
}

const DatasetState* ClusterState::FindDataset(absl::string_view id) const {
  const auto it = datasets_.find(id);
  return it == datasets_.end() ? nullptr : &it->second;
}

void ClusterState::NoteTime(absl::Duration now) {
  if (now - last_time_ > kStoodStill) {
    Tell(LogLevel::kWarn, "this process stood still; leases have their full time again", "",
         absl::FormatDuration(now - last_time_));
    leases_.Grace(now);
    gangs_.Grace(now);
    shards_.Grace(now);
    for (auto& [id, worker] : workers_) worker.last_seen = now;
  }
  last_time_ = std::max(last_time_, now);
}

void ClusterState::Tick(Moment now) {
  LapseLeases(now);
  std::erase_if(not_before_, [&](const auto& entry) { return now.steady >= entry.second; });
  std::erase_if(first_failed_,
                [&](const auto& entry) { return tables_.failures.Find(entry.first) == nullptr; });
  std::erase_if(workers_, [&](const auto& entry) {
    return now.steady - entry.second.last_seen > std::max(kWorkerTimeout, options_.lease_duration);
  });
  HandleGangEvents(gangs_.Tick(Demands(now), now.steady), now);
  const std::map<int64_t, std::string> live = live_jobs_;  // Advance may end jobs
  for (const auto& [sequence, id] : live) {
    Advance(id, now);
    SampleRates(*tables_.jobs.Find(id), now);
  }
}

void ClusterState::SampleRates(const JobRow& job, Moment now) {
  const auto found = rates_.find(job.id());
  if (found == rates_.end()) return;
  Rates& rates = found->second;
  if (!AtWork(job)) {
    rates = Rates();
    return;
  }
  // A new generation starts up first.
  const auto* gang = gangs_.Find(job.id());
  const int64_t generation = gang == nullptr || !gang->active() ? 0 : gang->generation();
  if (generation != rates.generation) rates.by_stage[STAGE_TRAIN].Reset();
  rates.generation = generation;
  Job view;
  AddStages(job, &view);
  for (const auto& stage : view.stages()) {
    rates.by_stage[stage.stage()].Sample(now.steady, stage.done());
  }
}

ClusterFigures ClusterState::Figures(Moment now) const {
  ClusterFigures figures = totals_;
  for (const auto& [id, row] : tables_.jobs.rows()) ++figures.jobs[row.state()];
  for (const auto& [id, lease] : leases_.live()) ++figures.live_leases[leases_.Find(id)->kind()];
  for (const auto& [id, worker] : workers_) {
    if (now.steady - worker.last_seen <= kWorkerTimeout) ++figures.live_workers;
  }
  figures.live_shards = static_cast<int64_t>(shards_.LiveShards(now.steady).size());
  figures.agents = static_cast<int64_t>(gangs_.agent_count());
  for (const auto& [sequence, id] : live_jobs_) {
    const auto& ranks = gangs_.RanksOf(id);
    figures.ranks_running += static_cast<int64_t>(ranks.size());
    if (figures.training_step == 0 && !ranks.empty()) {
      figures.training_step = ranks.begin()->second.step();
    }
  }
  for (const auto& [id, dataset] : datasets_) figures.sealed_triples += dataset.sealed().size();
  return figures;
}

}  // namespace d2g::coordinator

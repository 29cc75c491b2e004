#include "coordinator/cluster_state.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/limits.h"
#include "services/common/status_macros.h"

namespace d2g::coordinator {

using d2g::common::LogLevel;
using d2g::coordinator::v1::Job;
using rows::v1::JobRow;

namespace {

// Decisions and ticks come at least every kTick; this much silence means that the process stood
// still.
constexpr absl::Duration kStoodStill = absl::Seconds(3);

}  // namespace

ClusterState::Rates::Rates()
    : simulate(kRateWindow), train(kRateWindow), evaluate(kRateWindow), xport(kRateWindow) {}

ClusterState::ClusterState(ClusterOptions options, Tables tables, Moment now)
    : options_(std::move(options)),
      tables_(std::move(tables)),
      leases_(options_.lease_duration, options_.incarnation, &tables_, now.steady),
      shards_(options_.shard_count, &tables_, now.steady),
      gangs_(options_.gang, &tables_, now.steady),
      last_time_(now.steady) {}

absl::StatusOr<std::unique_ptr<ClusterState>> ClusterState::Load(ClusterOptions options,
                                                                 const RowChanges& rows,
                                                                 Moment now) {
  Tables tables;
  for (const RowChange& row : rows) {
    if (row.value.has_value()) D2G_RETURN_IF_ERROR(tables.Load(row.key, *row.value));
  }
  std::unique_ptr<ClusterState> state(new ClusterState(std::move(options), std::move(tables), now));
  D2G_RETURN_IF_ERROR(state->Restore(now));
  return state;
}

absl::Status ClusterState::Restore(Moment now) {
  for (const auto& [id, row] : tables_.datasets.rows()) {
    if (row.recipe().block_size() < 1 || row.recipe().shard_count() < 1) {
      return absl::DataLossError(absl::StrCat("dataset row ", id, " has no block size or shards"));
    }
    datasets_.try_emplace(id, row.recipe());
  }
  for (const auto& [id, row] : tables_.seals.rows()) {
    const auto parsed = ParseChildId(id);
    const auto dataset = parsed ? datasets_.find(parsed->parent) : datasets_.end();
    if (dataset == datasets_.end()) {
      return absl::DataLossError(absl::StrCat("seals row ", id, " belongs to no dataset"));
    }
    D2G_RETURN_IF_ERROR(
        d2g::common::Annotate(dataset->second.LoadShard(static_cast<int32_t>(parsed->number), row),
                              absl::StrCat("seals row ", id)));
  }
  for (const auto& [id, row] : tables_.jobs.rows()) {
    if (!datasets_.contains(row.dataset()) && !Ended(row)) {
      return absl::DataLossError(
          absl::StrCat("job row ", id, " names dataset ", row.dataset(), ", which is absent"));
    }
    next_sequence_ = std::max(next_sequence_, row.sequence() + 1);
    if (!row.request_id().empty()) requests_[row.request_id()] = id;
    if (!Ended(row)) {
      live_jobs_[row.sequence()] = id;
      rates_[id];
      if (TrainDone(row)) gangs_.Finish(id, now.steady);
    }
  }
  for (const auto& [id, row] : tables_.leases.rows()) {
    const auto dataset = datasets_.find(row.dataset());
    if (tables_.jobs.Find(row.job()) == nullptr || dataset == datasets_.end()) {
      return absl::DataLossError(absl::StrCat("lease row ", id, " belongs to no job or dataset"));
    }
    if (row.kind() == d2g::coordinator::v1::TASK_KIND_SIMULATE) {
      dataset->second.Lease(row.range().begin(), row.range().end());
    }
  }
  return absl::OkStatus();
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
    const auto rates = rates_.find(id);
    if (rates == rates_.end()) continue;
    Job view;
    AddStages(*tables_.jobs.Find(id), &view);
    for (const auto& stage : view.stages()) {
      switch (stage.stage()) {
        case d2g::coordinator::v1::STAGE_SIMULATE:
          rates->second.simulate.Sample(now.steady, stage.done());
          break;
        case d2g::coordinator::v1::STAGE_TRAIN:
          rates->second.train.Sample(now.steady, stage.done());
          break;
        case d2g::coordinator::v1::STAGE_EVALUATE:
          rates->second.evaluate.Sample(now.steady, stage.done());
          break;
        default:
          rates->second.xport.Sample(now.steady, stage.done());
          break;
      }
    }
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

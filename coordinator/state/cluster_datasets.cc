// Datasets, snapshots and the shards that hold them.
#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/rows/limits.h"
#include "coordinator/state/cluster_state.h"
#include "coordinator/state/page_token.h"
#include "coordinator/state/timestamps.h"
#include "services/common/status_macros.h"
#include "services/spec/field_rules.h"

namespace d2g::coordinator {

using namespace d2g::coordinator::v1;  // NOLINT: the resources that this file is about
using d2g::common::LogLevel;
using d2g::common::v1::DatasetRecipe;
using rows::v1::JobRow;

namespace {

// Heartbeats in a row that leave out a dataset of which the shard was known to hold something,
// after which the shard is taken at its word. One may have been on its way while the first seal
// arrived.
constexpr int kUnlistedHeartbeats = 2;

}  // namespace

absl::StatusOr<std::string> ClusterState::FindDatasetId(absl::string_view name) const {
  D2G_ASSIGN_OR_RETURN(std::string id, ParseDatasetName(name));
  if (FindDataset(id) == nullptr) return absl::NotFoundError(absl::StrCat("there is no ", name));
  return id;
}

DatasetState& ClusterState::EnsureDataset(const std::string& id, const DatasetRecipe& recipe,
                                          Moment now) {
  const auto [it, fresh] = datasets_.try_emplace(id, recipe);
  if (fresh) {
    auto& row = tables_.datasets.Mutable(id);
    *row.mutable_recipe() = recipe;
    *row.mutable_create_time() = ToTimestamp(now.wall);
    // What a shard has not dropped yet is welcome: its heartbeat will tell.
    tables_.dropped.Erase(id);
  }
  return it->second;
}

void ClusterState::SaveSeals(const std::string& dataset, int32_t shard) {
  tables_.seals.Mutable(ChildId(dataset, shard)) = datasets_.at(dataset).ShardRow(shard);
}

Dataset ClusterState::DatasetView(const std::string& id, Moment now) const {
  const DatasetState& dataset = datasets_.at(id);
  Dataset view;
  view.set_name(DatasetName(id));
  *view.mutable_recipe() = dataset.recipe();
  view.set_sealed_count(dataset.sealed().size());
  for (const auto& [job, row] : tables_.jobs.rows()) {
    if (row.dataset() == id) view.add_jobs(JobName(job));
  }
  for (const auto& shard : shards_.LiveShards(now.steady)) *view.add_shards() = shard;
  return view;
}

absl::StatusOr<Dataset> ClusterState::GetDataset(absl::string_view name, Moment now) const {
  D2G_ASSIGN_OR_RETURN(const std::string id, FindDatasetId(name));
  return DatasetView(id, now);
}

absl::StatusOr<ListDatasetsResponse> ClusterState::ListDatasets(const ListDatasetsRequest& request,
                                                                Moment now) const {
  D2G_ASSIGN_OR_RETURN(const int page_size, PageSize(request.page_size()));
  D2G_ASSIGN_OR_RETURN(const std::string after, DecodePageToken("datasets", request.page_token()));
  ListDatasetsResponse response;
  std::string last;
  for (auto it = datasets_.upper_bound(after); it != datasets_.end(); ++it) {
    if (response.datasets_size() == page_size) {
      response.set_next_page_token(EncodePageToken("datasets", last));
      break;
    }
    *response.add_datasets() = DatasetView(it->first, now);
    last = it->first;
  }
  return response;
}

absl::Status ClusterState::DeleteDataset(absl::string_view name) {
  D2G_ASSIGN_OR_RETURN(const std::string id, FindDatasetId(name));
  for (const auto& [sequence, job] : live_jobs_) {
    if (tables_.jobs.Find(job)->dataset() == id) {
      return absl::FailedPreconditionError(
          absl::StrCat(name, " is used by ", JobName(job), ", which has not ended"));
    }
  }
  const int32_t shards = datasets_.at(id).recipe().shard_count();
  auto& dropped = tables_.dropped.Mutable(id);
  for (int32_t shard = 0; shard < shards; ++shard) {
    dropped.add_shards(shard);
    tables_.seals.Erase(ChildId(id, shard));
  }
  tables_.datasets.Erase(id);
  datasets_.erase(id);
  return absl::OkStatus();
}

absl::StatusOr<Snapshot> ClusterState::GetOrCreateSnapshot(
    const GetOrCreateSnapshotRequest& request) {
  D2G_ASSIGN_OR_RETURN(const JobRow* job, FindJob(request.job()));
  if (request.epoch() < 0) {
    return absl::InvalidArgumentError(absl::StrCat("epoch: ", request.epoch(), " is negative"));
  }
  const std::string id = ChildId(job->id(), request.epoch());
  if (tables_.snapshots.Find(id) == nullptr) {
    const DatasetState* dataset = FindDataset(job->dataset());
    const int64_t triples = job->spec().simulate().triples();
    const int64_t training = dataset == nullptr ? 0 : dataset->SealedTraining(triples);
    if (HasEnded(*job)) {
      return absl::FailedPreconditionError(
          absl::StrCat(request.job(), " has ended: no further epoch begins"));
    }
    if (training < job->spec().train().global_batch()) {
      return absl::FailedPreconditionError(absl::StrCat(request.job(), " has ", training,
                                                        " sealed training triples, fewer than one "
                                                        "global batch of ",
                                                        job->spec().train().global_batch()));
    }
    dataset::AppendRanges(dataset->sealed(), 0, triples,
                          tables_.snapshots.Mutable(id).mutable_ranges());
  }
  Snapshot snapshot;
  snapshot.set_job(request.job());
  snapshot.set_epoch(request.epoch());
  snapshot.set_dataset(DatasetName(job->dataset()));
  *snapshot.mutable_ranges() = tables_.snapshots.Find(id)->ranges();
  return snapshot;
}

void ClusterState::ClearShard(const std::string& id, int32_t shard, Moment now) {
  DatasetState& dataset = datasets_.at(id);
  const int64_t lost = dataset.ShardSealedCount(shard);
  if (lost == 0) return;
  totals_.triples_reopened += lost;
  Tell(LogLevel::kWarn, "a shard lost sealed triples; they are open again", id,
       absl::StrCat(lost, " on shard ", shard));
  dataset.ForgetRecent(shard);
  if (dataset.ReplaceShard(shard, {}, 0, 0).ok()) SaveSeals(id, shard);
  AdvanceUsersOf(id, now);
}

absl::StatusOr<ShardHeartbeatResponse> ClusterState::ShardHeartbeat(
    const ShardHeartbeatRequest& request, Moment now) {
  const int32_t shard = request.shard().shard();
  const auto* before = shards_.Find(shard);
  const std::string uuid_before = before == nullptr ? "" : before->store_uuid();
  D2G_RETURN_IF_ERROR(shards_.Heartbeat(request.shard(), now.steady));
  ShardHeartbeatResponse response;
  *response.mutable_heartbeat_interval() = ToProtoDuration(kShardHeartbeat);
  std::vector<std::string> known;
  for (const auto& [id, dataset] : datasets_) {
    if (shard < dataset.recipe().shard_count()) known.push_back(id);
  }
  if (!uuid_before.empty() && uuid_before != request.shard().store_uuid()) {
    // Another volume: nothing that the old one held counts.
    for (const std::string& id : known) ClearShard(id, shard, now);
  }
  // Lists asked for by this answer are made after it.
  for (const std::string& id : known) datasets_.at(id).ForgetRecent(shard);
  std::set<std::string> listed;
  for (const DatasetSummary& summary : request.datasets()) {
    const auto id = ParseDatasetName(summary.dataset());
    if (!id.ok()) continue;
    listed.insert(*id);
    unlisted_.erase(ChildId(*id, shard));
    const DatasetState* dataset = FindDataset(*id);
    if (dataset != nullptr && shard < dataset->recipe().shard_count() &&
        !dataset->Agrees(shard, summary.sealed_count(), summary.digest())) {
      response.add_report_seals(summary.dataset());
    }
    const auto* dropped = tables_.dropped.Find(*id);
    if (dropped != nullptr && std::find(dropped->shards().begin(), dropped->shards().end(),
                                        shard) != dropped->shards().end()) {
      response.add_drop_datasets(summary.dataset());
    }
  }
  for (const std::string& id : known) {
    if (listed.contains(id) || datasets_.at(id).ShardSealedCount(shard) == 0) continue;
    if (++unlisted_[ChildId(id, shard)] >= kUnlistedHeartbeats) {
      unlisted_.erase(ChildId(id, shard));
      ClearShard(id, shard, now);
    }
  }
  // A dataset to drop that is no longer listed is dropped.
  std::vector<std::string> dropped_here;
  for (const auto& [id, row] : tables_.dropped.rows()) {
    if (!listed.contains(id) &&
        std::find(row.shards().begin(), row.shards().end(), shard) != row.shards().end()) {
      dropped_here.push_back(id);
    }
  }
  for (const std::string& id : dropped_here) {
    auto* shards = tables_.dropped.Mutable(id).mutable_shards();
    shards->erase(std::remove(shards->begin(), shards->end(), shard), shards->end());
    if (shards->empty()) tables_.dropped.Erase(id);
  }
  return response;
}

absl::StatusOr<ReportSealsResponse> ClusterState::ReportSeals(const ReportSealsRequest& request,
                                                              Moment now) {
  const auto* known = shards_.Find(request.shard().shard());
  // A list from before this start may be older than seals that the rows hold: heartbeats first.
  if (known == nullptr || known->store_uuid() != request.shard().store_uuid() ||
      !shards_.Live(request.shard().shard(), now.steady)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "shard ", request.shard().shard(), " with store ", request.shard().store_uuid(),
        " has not sent a heartbeat lately: send one first"));
  }
  D2G_ASSIGN_OR_RETURN(const std::string id, FindDatasetId(request.dataset()));
  DatasetState& dataset = datasets_.at(id);
  const int32_t shard = request.shard().shard();
  const int64_t before =
      shard < dataset.recipe().shard_count() ? dataset.ShardSealedCount(shard) : 0;
  const int64_t most = spec::Largest(*v1::SimulateSpec::descriptor(), "triples");
  for (const auto& range : request.ranges()) {
    if (range.begin() < 0 || range.end() > most) {
      return absl::InvalidArgumentError(
          absl::StrCat("ranges: [", range.begin(), ", ", range.end(),
                       ") is not within the indices of a dataset, which are from 0 to ", most - 1));
    }
  }
  D2G_RETURN_IF_ERROR(
      dataset.ReplaceShard(shard, request.ranges(), request.sealed_count(), request.digest()));
  if (before > request.sealed_count()) {
    totals_.triples_reopened += before - request.sealed_count();
    Tell(LogLevel::kWarn, "a shard lost sealed triples; they are open again", id,
         absl::StrCat(before - request.sealed_count(), " on shard ", shard));
  }
  totals_.triples_sealed += std::max<int64_t>(0, request.sealed_count() - before);
  SaveSeals(id, shard);
  // A dataset that the shards knew before the coordinator did (it lost its rows): what they hold
  // was there when the job was submitted.
  for (const auto& [sequence, job] : live_jobs_) {
    const JobRow& row = *tables_.jobs.Find(job);
    const int64_t sealed = dataset.SealedCount(row.spec().simulate().triples());
    if (row.dataset() == id && row.stages().count(STAGE_SIMULATE) == 0 && row.reused() < sealed) {
      Touch(job, now).set_reused(sealed);
    }
  }
  AdvanceUsersOf(id, now);
  return ReportSealsResponse();
}

}  // namespace d2g::coordinator

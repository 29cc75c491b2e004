// Datasets, snapshots and the shards that hold them.
#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/rows/limits.h"
#include "coordinator/state/cluster_state.h"
#include "coordinator/state/listings.h"
#include "coordinator/state/timestamps.h"
#include "services/common/status_macros.h"

namespace d2g::coordinator {

using rows::v1::JobRow;
using rows::v1::SnapshotRow;

absl::StatusOr<v1::Dataset> ClusterState::GetDataset(absl::string_view name, Moment now) const {
  D2G_ASSIGN_OR_RETURN(const std::string id, datasets_.FindByName(name));
  return DatasetView(id, parts(), now);
}

absl::StatusOr<v1::ListDatasetsResponse> ClusterState::ListDatasets(
    const v1::ListDatasetsRequest& request, Moment now) const {
  return coordinator::ListDatasets(request, parts(), now);
}

absl::Status ClusterState::DeleteDataset(absl::string_view name) {
  D2G_ASSIGN_OR_RETURN(const std::string id, datasets_.FindByName(name));
  if (const Jobs::Live users = jobs_.LiveUsersOf(id); !users.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        name, " is used by ", JobName(users.begin()->second->id()), ", which has not ended"));
  }
  datasets_.Erase(id);
  return absl::OkStatus();
}

absl::StatusOr<v1::Snapshot> ClusterState::GetOrCreateSnapshot(
    const v1::GetOrCreateSnapshotRequest& request) {
  D2G_ASSIGN_OR_RETURN(const JobRow* job, jobs_.FindByName(request.job()));
  if (request.epoch() < 0) {
    return absl::InvalidArgumentError(absl::StrCat("epoch: ", request.epoch(), " is negative"));
  }
  const SnapshotRow* row = snapshots_.Find(job->id(), request.epoch());
  if (row == nullptr) {
    const DatasetState* dataset = datasets_.Find(job->dataset());
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
    row = &snapshots_.Add(job->id(), request.epoch(), dataset->sealed(), triples);
  }
  v1::Snapshot snapshot;
  snapshot.set_job(request.job());
  snapshot.set_epoch(request.epoch());
  snapshot.set_dataset(DatasetName(job->dataset()));
  *snapshot.mutable_ranges() = row->ranges();
  return snapshot;
}

void ClusterState::NoteLost(const std::string& dataset, int32_t shard, int64_t triples) {
  totals_.triples_reopened += triples;
  notes_.Warn("a shard lost sealed triples; they are open again", dataset,
              absl::StrCat(triples, " on shard ", shard));
}

absl::StatusOr<v1::ShardHeartbeatResponse> ClusterState::ShardHeartbeat(
    const v1::ShardHeartbeatRequest& request, Moment now) {
  const int32_t shard = request.shard().shard();
  const auto* before = shards_.Find(shard);
  const bool another_store =
      before != nullptr && before->store_uuid() != request.shard().store_uuid();
  D2G_RETURN_IF_ERROR(shards_.Heartbeat(request.shard(), now.steady));
  const Datasets::ShardNews news = datasets_.TakeSummaries(request, another_store);
  for (const auto& [dataset, triples] : news.lost) {
    NoteLost(dataset, shard, triples);
    AdvanceUsersOf(dataset, 0, 0, now);
  }
  v1::ShardHeartbeatResponse response;
  *response.mutable_heartbeat_interval() = ToProtoDuration(kShardHeartbeat);
  for (const std::string& name : news.report_seals) response.add_report_seals(name);
  for (const std::string& name : news.drop) response.add_drop_datasets(name);
  return response;
}

absl::StatusOr<v1::ReportSealsResponse> ClusterState::ReportSeals(
    const v1::ReportSealsRequest& request, Moment now) {
  const int32_t shard = request.shard().shard();
  const auto* known = shards_.Find(shard);
  // A list from before this start may be older than seals that the rows hold: heartbeats first.
  if (known == nullptr || known->store_uuid() != request.shard().store_uuid() ||
      !shards_.Live(shard, now.steady)) {
    return absl::FailedPreconditionError(
        absl::StrCat("shard ", shard, " with store ", request.shard().store_uuid(),
                     " has not sent a heartbeat lately: send one first"));
  }
  D2G_ASSIGN_OR_RETURN(const std::string id, datasets_.FindByName(request.dataset()));
  D2G_ASSIGN_OR_RETURN(const int64_t before, datasets_.ReplaceShard(id, request));
  if (before > request.sealed_count()) NoteLost(id, shard, before - request.sealed_count());
  totals_.triples_sealed += std::max<int64_t>(0, request.sealed_count() - before);
  // A dataset that the shards knew before the coordinator did (it lost its rows): what they hold
  // was there when the job was submitted.
  for (const auto& [sequence, job] : jobs_.LiveUsersOf(id)) {
    const int64_t sealed = datasets_.At(id).SealedCount(job->spec().simulate().triples());
    if (job->stages().count(v1::STAGE_SIMULATE) == 0 && job->reused() < sealed) {
      jobs_.SetReused(job->id(), sealed, now);
    }
  }
  AdvanceUsersOf(id, 0, std::numeric_limits<int64_t>::max(), now);
  return v1::ReportSealsResponse();
}

}  // namespace d2g::coordinator

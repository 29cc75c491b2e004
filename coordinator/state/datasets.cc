#include "coordinator/state/datasets.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "coordinator/state/timestamps.h"
#include "services/common/status_macros.h"
#include "services/spec/field_rules.h"

namespace d2g::coordinator {

using common::v1::IndexRange;
using rows::v1::DroppedDatasetRow;
using rows::v1::LeaseRow;

namespace {

// Heartbeats in a row that leave out a dataset of which the shard was known to hold something,
// after which the shard is taken at its word. One may have been on its way while the first seal
// arrived.
constexpr int kUnlistedHeartbeats = 2;

bool Names(const DroppedDatasetRow& row, int32_t shard) {
  return std::find(row.shards().begin(), row.shards().end(), shard) != row.shards().end();
}

absl::Status CheckIndices(const DatasetState::Ranges& ranges) {
  const int64_t most = spec::Largest(*v1::SimulateSpec::descriptor(), "triples");
  for (const IndexRange& range : ranges) {
    if (range.begin() < 0 || range.end() > most) {
      return absl::InvalidArgumentError(
          absl::StrCat("ranges: [", range.begin(), ", ", range.end(),
                       ") is not within the indices of a dataset, which are from 0 to ", most - 1));
    }
  }
  return absl::OkStatus();
}

}  // namespace

Datasets::Datasets(Table<rows::v1::DatasetRow> rows, Table<rows::v1::SealsRow> seals,
                   Table<DroppedDatasetRow> dropped, States states)
    : rows_(std::move(rows)),
      seals_(std::move(seals)),
      dropped_(std::move(dropped)),
      states_(std::move(states)) {
  for (const auto& [id, state] : states_) sealed_triples_ += state.sealed().size();
}

const DatasetState* Datasets::Find(absl::string_view id) const {
  const auto it = states_.find(id);
  return it == states_.end() ? nullptr : &it->second;
}

absl::StatusOr<std::string> Datasets::FindByName(absl::string_view name) const {
  D2G_ASSIGN_OR_RETURN(std::string id, ParseDatasetName(name));
  if (Find(id) == nullptr) return absl::NotFoundError(absl::StrCat("there is no ", name));
  return id;
}

void Datasets::Add(const std::string& id, const common::v1::DatasetRecipe& recipe, Moment now) {
  if (!states_.try_emplace(id, recipe).second) return;
  auto& row = rows_.Mutable(id);
  *row.mutable_recipe() = recipe;
  *row.mutable_create_time() = ToTimestamp(now.wall);
  // The shards' heartbeats will tell what they still have.
  dropped_.Erase(id);
}

void Datasets::Erase(const std::string& id) {
  const DatasetState& state = At(id);
  sealed_triples_ -= state.sealed().size();
  DroppedDatasetRow& dropped = dropped_.Mutable(id);
  for (int32_t shard = 0; shard < state.recipe().shard_count(); ++shard) {
    dropped.add_shards(shard);
    unlisted_.erase(ChildId(id, shard));
  }
  seals_.EraseChildren(id);
  rows_.Erase(id);
  states_.erase(id);
}

void Datasets::Lease(const LeaseRow& lease) {
  states_.at(lease.dataset()).Lease(lease.range().begin(), lease.range().end());
}

void Datasets::Release(const LeaseRow& lease) {
  states_.at(lease.dataset()).Release(lease.range().begin(), lease.range().end());
}

void Datasets::SaveSeals(absl::string_view id, int32_t shard) {
  seals_.Mutable(ChildId(id, shard)) = At(id).ShardRow(shard);
}

absl::StatusOr<int64_t> Datasets::MergeSeal(absl::string_view id, const IndexRange& range,
                                            uint64_t digest) {
  DatasetState& state = states_.find(id)->second;
  D2G_ASSIGN_OR_RETURN(const int64_t added, state.MergeSeal(range, digest));
  sealed_triples_ += added;
  if (added > 0) SaveSeals(id, state.ShardOf(range.begin()));
  return added;
}

absl::StatusOr<int64_t> Datasets::ReplaceShard(absl::string_view id,
                                               const v1::ReportSealsRequest& request) {
  DatasetState& state = states_.find(id)->second;
  const int32_t shard = request.shard().shard();
  const int64_t before = shard < state.recipe().shard_count() ? state.ShardSealedCount(shard) : 0;
  const int64_t all_before = state.sealed().size();
  D2G_RETURN_IF_ERROR(CheckIndices(request.ranges()));
  D2G_RETURN_IF_ERROR(
      state.ReplaceShard(shard, request.ranges(), request.sealed_count(), request.digest()));
  sealed_triples_ += state.sealed().size() - all_before;
  SaveSeals(id, shard);
  return before;
}

void Datasets::ClearShard(const std::string& id, int32_t shard, ShardNews* news) {
  DatasetState& state = states_.at(id);
  const int64_t lost = state.ShardSealedCount(shard);
  if (lost == 0) return;
  state.ForgetRecent(shard);
  if (!state.ReplaceShard(shard, {}, 0, 0).ok()) return;
  SaveSeals(id, shard);
  sealed_triples_ -= lost;
  news->lost.emplace_back(id, lost);
}

Datasets::ShardNews Datasets::TakeSummaries(const v1::ShardHeartbeatRequest& request,
                                            bool another_store) {
  const int32_t shard = request.shard().shard();
  ShardNews news;
  std::vector<std::string> known;
  for (auto& [id, state] : states_) {
    if (shard >= state.recipe().shard_count()) continue;
    known.push_back(id);
    // Nothing that another volume held counts.
    if (another_store) ClearShard(id, shard, &news);
    // Lists asked for by this answer are made after it.
    state.ForgetRecent(shard);
  }
  std::set<std::string> listed;
  for (const v1::DatasetSummary& summary : request.datasets()) {
    const auto id = ParseDatasetName(summary.dataset());
    if (!id.ok()) continue;
    listed.insert(*id);
    unlisted_.erase(ChildId(*id, shard));
    const DatasetState* state = Find(*id);
    if (state != nullptr && shard < state->recipe().shard_count() &&
        !state->Agrees(shard, summary.sealed_count(), summary.digest())) {
      news.report_seals.push_back(summary.dataset());
    }
    const DroppedDatasetRow* dropped = dropped_.Find(*id);
    if (dropped != nullptr && Names(*dropped, shard)) news.drop.push_back(summary.dataset());
  }
  for (const std::string& id : known) {
    if (listed.contains(id) || At(id).ShardSealedCount(shard) == 0) continue;
    if (++unlisted_[ChildId(id, shard)] >= kUnlistedHeartbeats) {
      unlisted_.erase(ChildId(id, shard));
      ClearShard(id, shard, &news);
    }
  }
  NoteDropped(shard, listed);
  return news;
}

void Datasets::NoteDropped(int32_t shard, const std::set<std::string>& listed) {
  std::vector<std::string> dropped_here;
  for (const auto& [id, row] : dropped_.rows()) {
    if (!listed.contains(id) && Names(row, shard)) dropped_here.push_back(id);
  }
  for (const std::string& id : dropped_here) {
    auto* shards = dropped_.Mutable(id).mutable_shards();
    shards->erase(std::remove(shards->begin(), shards->end(), shard), shards->end());
    if (shards->empty()) dropped_.Erase(id);
  }
}

void Datasets::TakeChanges(RowChanges* changes) {
  rows_.TakeChanges(changes);
  seals_.TakeChanges(changes);
  dropped_.TakeChanges(changes);
}

void Datasets::CopyTo(RowChanges* all) const {
  rows_.CopyTo(all);
  seals_.CopyTo(all);
  dropped_.CopyTo(all);
}

}  // namespace d2g::coordinator

// The datasets: their rows, what is sealed and leased of each, and those that shards have to drop.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "coordinator/rows/tables.h"
#include "coordinator/state/dataset_state.h"
#include "coordinator/state/moment.h"
#include "d2g/coordinator/v1/shard_service.pb.h"

namespace d2g::coordinator {

// Owns the rows of datasets, of seals and of dropped datasets, and the states made from them.
// States stay where they are until they are erased. Thread-compatible.
class Datasets {
 public:
  using States = std::map<std::string, DatasetState, std::less<>>;

  // `states` are those of the rows.
  Datasets(Table<rows::v1::DatasetRow> rows, Table<rows::v1::SealsRow> seals,
           Table<rows::v1::DroppedDatasetRow> dropped, States states);
  Datasets(const Datasets&) = delete;
  Datasets& operator=(const Datasets&) = delete;

  // Null when there is none.
  const DatasetState* Find(absl::string_view id) const;
  // REQUIRES: there is one.
  const DatasetState& At(absl::string_view id) const { return states_.find(id)->second; }
  // The id; NOT_FOUND, or INVALID_ARGUMENT when the name is none.
  absl::StatusOr<std::string> FindByName(absl::string_view name) const;
  const States& all() const { return states_; }
  size_t dropped_count() const { return dropped_.rows().size(); }
  int64_t sealed_triples() const { return sealed_triples_; }

  // Does nothing when it is there. If shards still hold triples of a deleted dataset with this id,
  // they are used again.
  void Add(const std::string& id, const common::v1::DatasetRecipe& recipe, Moment now);
  // Forgets a dataset, and has the shards drop it.
  void Erase(const std::string& id);

  // See DatasetState. The lease's dataset is there.
  void Lease(const rows::v1::LeaseRow& lease);
  void Release(const rows::v1::LeaseRow& lease);
  absl::StatusOr<int64_t> MergeSeal(absl::string_view id, const common::v1::IndexRange& range,
                                    uint64_t digest);
  // Takes a shard's list of what it has sealed; returns what was known before. INVALID_ARGUMENT
  // when the list cannot be.
  absl::StatusOr<int64_t> ReplaceShard(absl::string_view id, const v1::ReportSealsRequest& request);

  // What a shard's heartbeat calls for.
  struct ShardNews {
    std::vector<std::string> report_seals;              // names
    std::vector<std::string> drop;                      // names
    std::vector<std::pair<std::string, int64_t>> lost;  // ids, with sealed triples that are gone
  };
  // Takes a shard's word for what it has: a dataset that it had and leaves out twice is lost, and
  // all of them when it has another store than before. Looks at every dataset, as the shard did.
  ShardNews TakeSummaries(const v1::ShardHeartbeatRequest& request, bool another_store);

  void TakeChanges(RowChanges* changes);
  void CopyTo(RowChanges* all) const;

 private:
  void SaveSeals(absl::string_view id, int32_t shard);
  void ClearShard(const std::string& id, int32_t shard, ShardNews* news);
  // Dropped datasets that the shard no longer lists are dropped there.
  void NoteDropped(int32_t shard, const std::set<std::string>& listed);

  Table<rows::v1::DatasetRow> rows_;
  Table<rows::v1::SealsRow> seals_;
  Table<rows::v1::DroppedDatasetRow> dropped_;
  States states_;
  std::map<std::string, int> unlisted_;  // heartbeats of a shard without a dataset that it had
  int64_t sealed_triples_ = 0;
};

}  // namespace d2g::coordinator

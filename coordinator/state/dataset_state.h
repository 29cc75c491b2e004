// What is sealed and what is leased of one dataset.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "d2g/common/v1/recipe.pb.h"
#include "d2g/coordinator/rows/v1/rows.pb.h"
#include "google/protobuf/repeated_ptr_field.h"
#include "services/dataset/index_set.h"

namespace d2g::coordinator {

// The shards hold the truth about what is sealed; this is a cache that may lag: CompleteTask merges
// what a shard answered to a seal, ReportSeals replaces what is known of a shard. Block b lives on
// shard b mod shard_count. Thread-compatible.
class DatasetState {
 public:
  using Range = std::pair<int64_t, int64_t>;
  using Ranges = google::protobuf::RepeatedPtrField<common::v1::IndexRange>;

  explicit DatasetState(common::v1::DatasetRecipe recipe);

  const common::v1::DatasetRecipe& recipe() const { return recipe_; }
  const dataset::IndexSet& sealed() const { return sealed_; }

  // Takes a shard's row from disk.
  absl::Status LoadShard(int32_t shard, const rows::v1::SealsRow& row);
  // The row to persist.
  rows::v1::SealsRow ShardRow(int32_t shard) const;

  int32_t ShardOf(int64_t index) const;
  // INVALID_ARGUMENT unless the range is not empty and lies inside one block.
  absl::Status CheckRange(const common::v1::IndexRange& range) const;

  // Merges a range that its shard sealed, with the digest that the shard gave. A range that was
  // partly known makes the shard's digest unknown, so that the next heartbeat asks for its list.
  // Returns how many indices are new.
  absl::StatusOr<int64_t> MergeSeal(const common::v1::IndexRange& range, uint64_t digest);
  // Call when answering the shard's heartbeat: any list that it sends afterwards includes all that
  // was merged so far.
  void ForgetRecent(int32_t shard) { shards_[shard].recent = dataset::IndexSet(); }
  // Replaces what is known of a shard. Ranges merged since ForgetRecent are kept, because the list
  // may be older than they are; then the digest is unknown. INVALID_ARGUMENT when ranges are empty,
  // not ascending, in another shard's block, or do not add up to `count`.
  absl::Status ReplaceShard(int32_t shard, const Ranges& ranges, int64_t count, uint64_t digest);
  // True when the shard holds what is known here.
  bool Agrees(int32_t shard, int64_t count, uint64_t digest) const;
  int64_t ShardSealedCount(int32_t shard) const;
  // Whether a shard holds a sealed index of [0, limit).
  bool ShardHolds(int32_t shard, int64_t limit) const;

  // A leased range is not offered again until it is released.
  void Lease(int64_t begin, int64_t end);
  void Release(int64_t begin, int64_t end);
  const dataset::IndexSet& leased() const { return leased_; }

  // The first contiguous part of [0, limit) that is neither sealed nor leased, inside one block, at
  // most task_size long, on a shard that `usable` takes. `fit` may shorten a candidate and take
  // or refuse what is left of it; after a refusal the search goes on behind that part.
  struct Fit {
    int64_t end;
    bool take;
  };
  std::optional<Range> FindOpen(int64_t limit, int64_t task_size,
                                const std::function<bool(int32_t shard)>& usable,
                                const std::function<Fit(Range)>& fit) const;

  // Sealed indices of [0, limit), and those that training may read (not held out). Only what is
  // sealed beyond the limit is looked through: little, since a dataset's jobs are mostly alike.
  int64_t SealedCount(int64_t limit) const;
  int64_t SealedTraining(int64_t limit) const;
  int64_t SealedHoldout(int64_t limit) const;
  // How many of `indices` are not sealed, by shard; shards that lack none are left out.
  std::map<int32_t, int64_t> Unsealed(const dataset::IndexSet& indices) const;

 private:
  struct Shard {
    dataset::IndexSet sealed;
    uint64_t digest = 0;
    bool digest_known = true;
    dataset::IndexSet recent;  // merged since the shard's last heartbeat
  };

  // Keep the sets below in step.
  void AddSealed(int64_t begin, int64_t end);
  void RemoveSealed(int64_t begin, int64_t end);
  // Opens what is neither sealed nor leased of a range.
  void Open(int64_t begin, int64_t end);

  common::v1::DatasetRecipe recipe_;
  std::vector<Shard> shards_;
  dataset::IndexSet sealed_;    // union over the shards
  int64_t sealed_holdout_ = 0;  // the held-out ones among them
  dataset::IndexSet leased_;
  dataset::IndexSet taken_;  // sealed or leased
};

// How many indices of [0, limit) are held out.
int64_t HoldoutIn(const common::v1::DatasetRecipe& recipe, int64_t limit);

}  // namespace d2g::coordinator

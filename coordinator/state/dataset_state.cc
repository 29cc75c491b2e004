#include "coordinator/state/dataset_state.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "services/common/status_macros.h"
#include "services/dataset/sharding.h"

namespace d2g::coordinator {

using common::v1::IndexRange;

namespace {

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

}  // namespace

DatasetState::DatasetState(common::v1::DatasetRecipe recipe)
    : recipe_(std::move(recipe)), shards_(std::max(1, recipe_.shard_count())) {}

absl::Status DatasetState::LoadShard(int32_t shard, const rows::v1::SealsRow& row) {
  int64_t count = 0;
  for (const IndexRange& range : row.ranges()) count += range.end() - range.begin();
  D2G_RETURN_IF_ERROR(ReplaceShard(shard, row.ranges(), count, row.digest()));
  shards_[shard].digest_known = row.digest_known();
  return absl::OkStatus();
}

rows::v1::SealsRow DatasetState::ShardRow(int32_t shard) const {
  rows::v1::SealsRow row;
  dataset::AppendRanges(shards_[shard].sealed, 0, kNoLimit, row.mutable_ranges());
  row.set_digest(shards_[shard].digest);
  row.set_digest_known(shards_[shard].digest_known);
  return row;
}

int32_t DatasetState::ShardOf(int64_t index) const { return dataset::ShardOf(recipe_, index); }

absl::Status DatasetState::CheckRange(const IndexRange& range) const {
  if (range.begin() < 0 || range.end() <= range.begin() ||
      range.begin() / recipe_.block_size() != (range.end() - 1) / recipe_.block_size()) {
    return absl::InvalidArgumentError(absl::StrCat("range [", range.begin(), ", ", range.end(),
                                                   ") is not inside one block of ",
                                                   recipe_.block_size(), " indices"));
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> DatasetState::MergeSeal(const IndexRange& range, uint64_t digest) {
  D2G_RETURN_IF_ERROR(CheckRange(range));
  Shard& shard = shards_[ShardOf(range.begin())];
  const int64_t added = shard.sealed.Add(range.begin(), range.end());
  shard.recent.Add(range.begin(), range.end());
  AddSealed(range.begin(), range.end());
  if (added == range.end() - range.begin()) {
    shard.digest += digest;
  } else if (added > 0) {
    shard.digest_known = false;
  }
  return added;
}

absl::Status DatasetState::ReplaceShard(int32_t number, const Ranges& ranges, int64_t count,
                                        uint64_t digest) {
  if (number < 0 || number >= static_cast<int32_t>(shards_.size())) {
    return absl::InvalidArgumentError(
        absl::StrCat("shard ", number, " is not one of the dataset's ", shards_.size(), " shards"));
  }
  dataset::IndexSet replacement;
  int64_t last_end = -1;
  for (const IndexRange& range : ranges) {
    if (range.begin() < 0 || range.end() <= range.begin() || range.begin() <= last_end) {
      return absl::InvalidArgumentError(absl::StrCat("sealed ranges of shard ", number,
                                                     " are not ascending and merged at [",
                                                     range.begin(), ", ", range.end(), ")"));
    }
    // Ranges may span blocks only where there is one shard.
    if (ShardOf(range.begin()) != number || ShardOf(range.end() - 1) != number ||
        (shards_.size() > 1 && !CheckRange(range).ok())) {
      return absl::InvalidArgumentError(absl::StrCat(
          "sealed range [", range.begin(), ", ", range.end(), ") does not lie on shard ", number));
    }
    replacement.Add(range.begin(), range.end());
    last_end = range.end();
  }
  if (replacement.size() != count) {
    return absl::InvalidArgumentError(absl::StrCat("sealed ranges of shard ", number, " hold ",
                                                   replacement.size(), " indices, not ", count));
  }
  Shard& shard = shards_[number];
  int64_t kept = 0;
  for (const auto& [begin, end] : shard.recent.ranges()) kept += replacement.Add(begin, end);
  for (const auto& [begin, end] : shard.sealed.ranges()) RemoveSealed(begin, end);
  for (const auto& [begin, end] : replacement.ranges()) AddSealed(begin, end);
  shard.sealed = std::move(replacement);
  shard.digest = digest;
  shard.digest_known = kept == 0;
  return absl::OkStatus();
}

bool DatasetState::Agrees(int32_t shard, int64_t count, uint64_t digest) const {
  const Shard& known = shards_[shard];
  return known.digest_known && known.sealed.size() == count && known.digest == digest;
}

int64_t DatasetState::ShardSealedCount(int32_t shard) const { return shards_[shard].sealed.size(); }

bool DatasetState::ShardHolds(int32_t shard, int64_t limit) const {
  return shards_[shard].sealed.FirstPresent(0).value_or(limit) < limit;
}

std::optional<DatasetState::Range> DatasetState::FindOpen(
    int64_t limit, int64_t task_size, const std::function<bool(int32_t shard)>& usable,
    const std::function<Fit(Range)>& fit) const {
  const int64_t block_size = recipe_.block_size();
  for (int64_t begin = taken_.FirstAbsent(0); begin < limit;) {
    const int64_t block_end = (begin / block_size + 1) * block_size;
    if (!usable(ShardOf(begin))) {
      begin = taken_.FirstAbsent(block_end);
      continue;
    }
    int64_t end = std::min({limit, block_end, begin + task_size});
    end = std::min(end, taken_.FirstPresent(begin).value_or(end));
    const Fit fitted = fit({begin, end});
    if (fitted.take) return Range{begin, fitted.end};
    begin = taken_.FirstAbsent(fitted.end);
  }
  return std::nullopt;
}

void DatasetState::AddSealed(int64_t begin, int64_t end) {
  sealed_holdout_ += dataset::MultiplesIn(begin, end, recipe_.holdout_every()) -
                     sealed_.CountMultiples(begin, end, recipe_.holdout_every());
  sealed_.Add(begin, end);
  taken_.Add(begin, end);
}

void DatasetState::RemoveSealed(int64_t begin, int64_t end) {
  sealed_holdout_ -= sealed_.CountMultiples(begin, end, recipe_.holdout_every());
  sealed_.Remove(begin, end);
  Open(begin, end);
}

void DatasetState::Lease(int64_t begin, int64_t end) {
  leased_.Add(begin, end);
  taken_.Add(begin, end);
}

void DatasetState::Release(int64_t begin, int64_t end) {
  leased_.Remove(begin, end);
  Open(begin, end);
}

void DatasetState::Open(int64_t begin, int64_t end) {
  taken_.Remove(begin, end);
  for (const auto* set : {&sealed_, &leased_}) {
    for (const auto& [from, to] : set->Within(begin, end)) taken_.Add(from, to);
  }
}

int64_t DatasetState::SealedCount(int64_t limit) const {
  return sealed_.size() - sealed_.Count(limit, kNoLimit);
}

int64_t DatasetState::SealedTraining(int64_t limit) const {
  return SealedCount(limit) - SealedHoldout(limit);
}

int64_t DatasetState::SealedHoldout(int64_t limit) const {
  return sealed_holdout_ - sealed_.CountMultiples(limit, kNoLimit, recipe_.holdout_every());
}

std::map<int32_t, int64_t> DatasetState::Unsealed(const dataset::IndexSet& indices) const {
  std::map<int32_t, int64_t> unsealed;
  for (const auto& [begin, end] : indices.ranges()) {
    int64_t at = sealed_.FirstAbsent(begin);
    while (at < end) {
      const int64_t block_end = (at / recipe_.block_size() + 1) * recipe_.block_size();
      int64_t stop = std::min(end, block_end);
      stop = std::min(stop, sealed_.FirstPresent(at).value_or(stop));
      unsealed[ShardOf(at)] += stop - at;
      at = sealed_.FirstAbsent(stop);
    }
  }
  return unsealed;
}

int64_t HoldoutIn(const common::v1::DatasetRecipe& recipe, int64_t limit) {
  return dataset::MultiplesIn(0, limit, recipe.holdout_every());
}

}  // namespace d2g::coordinator

#include "services/store/block_state.h"

#include "absl/strings/str_cat.h"

namespace d2g::store {

using common::v1::IndexRange;

absl::StatusOr<BlockState> BlockState::FromRow(int64_t first, int64_t size,
                                               const v1::BlockRow& row) {
  BlockState state(first, size);
  if (!state.presence_.Assign(row.presence()) || !state.sealed_.Assign(row.sealed())) {
    return absl::DataLossError(
        absl::StrCat("the block row at index ", first, " does not fit a block of ", size));
  }
  state.range_epoch_ = row.range_epoch();
  state.sealed_digest_ = row.sealed_digest();
  return state;
}

v1::BlockRow BlockState::ToRow() const {
  v1::BlockRow row;
  row.set_range_epoch(range_epoch_);
  row.set_presence(presence_.bytes());
  row.set_sealed(sealed_.bytes());
  row.set_sealed_digest(sealed_digest_);
  return row;
}

std::string BlockState::Presence(const IndexRange& range) const {
  return presence_.Slice(range.begin() - first_, range.end() - first_).bytes();
}

std::vector<IndexRange> BlockState::SealedRanges() const {
  std::vector<IndexRange> ranges;
  for (int64_t at = 0; at < size(); ++at) {
    if (!sealed_.Get(at)) continue;
    if (ranges.empty() || ranges.back().end() != first_ + at) {
      ranges.emplace_back();
      ranges.back().set_begin(first_ + at);
    }
    ranges.back().set_end(first_ + at + 1);
  }
  return ranges;
}

void BlockState::MarkSealed(int64_t index, uint64_t digest) {
  sealed_.Set(index - first_, true);
  sealed_digest_ += digest;
}

void BlockState::MarkAbsent(int64_t index, uint64_t digest) {
  if (IsSealed(index)) sealed_digest_ -= digest;
  presence_.Set(index - first_, false);
  sealed_.Set(index - first_, false);
}

}  // namespace d2g::store

#include "services/store/block_state.h"

#include <bit>

#include "absl/strings/str_cat.h"

namespace d2g::store {

using d2g::common::v1::IndexRange;

void Bitmap::Set(int64_t position, bool value) {
  char& byte = bytes_[static_cast<size_t>(position / 8)];
  const int bit = 1 << (position % 8);
  byte = static_cast<char>(value ? byte | bit : byte & ~bit);
}

int64_t Bitmap::Count() const {
  int64_t count = 0;
  for (const char byte : bytes_) count += std::popcount(static_cast<unsigned char>(byte));
  return count;
}

bool Bitmap::Assign(const std::string& bytes) {
  if (bytes.size() != bytes_.size()) return false;
  const int64_t used = size_ % 8;
  if (used != 0 && (static_cast<unsigned char>(bytes.back()) >> used) != 0) return false;
  bytes_ = bytes;
  return true;
}

Bitmap Bitmap::Slice(int64_t begin, int64_t end) const {
  Bitmap slice(end - begin);
  for (int64_t at = begin; at < end; ++at) {
    if (Get(at)) slice.Set(at - begin, true);
  }
  return slice;
}

absl::StatusOr<BlockState> BlockState::FromRow(int64_t first, int64_t size,
                                               const d2g::store::v1::BlockRow& row) {
  BlockState state(first, size);
  if (!state.presence_.Assign(row.presence()) || !state.sealed_.Assign(row.sealed())) {
    return absl::DataLossError(
        absl::StrCat("the block row at index ", first, " does not fit a block of ", size));
  }
  state.range_epoch_ = row.range_epoch();
  state.sealed_digest_ = row.sealed_digest();
  return state;
}

d2g::store::v1::BlockRow BlockState::ToRow() const {
  d2g::store::v1::BlockRow row;
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

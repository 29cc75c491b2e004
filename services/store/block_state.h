// Which triples of a block are present and sealed. Pure: no lock, no disk.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "d2g/common/v1/recipe.pb.h"
#include "d2g/store/v1/rows.pb.h"
#include "services/dataset/bitmap.h"

namespace d2g::store {

// Thread-compatible; copied, changed, written to disk and only then swapped in.
class BlockState {
 public:
  // `first` is the block's first index.
  BlockState(int64_t first, int64_t size) : first_(first), presence_(size), sealed_(size) {}
  // DATA_LOSS when the row does not fit the block.
  static absl::StatusOr<BlockState> FromRow(int64_t first, int64_t size, const v1::BlockRow& row);
  v1::BlockRow ToRow() const;

  int64_t first() const { return first_; }
  int64_t size() const { return presence_.size(); }
  int64_t range_epoch() const { return range_epoch_; }
  bool IsPresent(int64_t index) const { return presence_.Get(index - first_); }
  bool IsSealed(int64_t index) const { return sealed_.Get(index - first_); }
  int64_t present_count() const { return presence_.Count(); }
  int64_t sealed_count() const { return sealed_.Count(); }
  uint64_t sealed_digest() const { return sealed_digest_; }
  // Presence bitmap of a range inside the block.
  std::string Presence(const common::v1::IndexRange& range) const;
  // Sealed ranges, ascending, as large as they go within the block.
  std::vector<common::v1::IndexRange> SealedRanges() const;

  void MarkPresent(int64_t index) { presence_.Set(index - first_, true); }
  // `digest` is SealDigest of the triple. REQUIRES: present, not sealed.
  void MarkSealed(int64_t index, uint64_t digest);
  // Neither present nor sealed any more; `digest` as it was sealed with, ignored if it was not.
  void MarkAbsent(int64_t index, uint64_t digest);
  void RaiseEpoch(int64_t range_epoch) { range_epoch_ = range_epoch; }

 private:
  int64_t first_;
  int64_t range_epoch_ = 0;
  dataset::Bitmap presence_;
  dataset::Bitmap sealed_;
  uint64_t sealed_digest_ = 0;
};

}  // namespace d2g::store

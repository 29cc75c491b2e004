// Keys and values of a shard's database: the one place that builds and parses them. The layout is
// described in docs/formats.md; changing it needs a new format number in StoreRow.
//
// Pure functions.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "d2g/common/v1/recipe.pb.h"
#include "d2g/store/v1/triple_service.pb.h"

namespace d2g::store {

// On disk in StoreRow.format.
inline constexpr int kStoreFormat = 1;

// A dataset's number in keys: small, never 0.
using DatasetId = uint32_t;

// First byte of every row's key. On disk; do not change.
enum class RowKind : char {
  kStore = 'S',     // StoreRow; no more key.
  kDataset = 'D',   // DatasetRow; dataset id.
  kBlock = 'B',     // BlockRow; dataset id, block number.
  kChecksum = 'C',  // x_checksum, 8 bytes little-endian; dataset id, index.
  kSeal = 'L',      // SealRow; dataset id, first index.
};

// What a row's key says; `dataset` and `number` are 0 where the kind has none.
struct RowKey {
  RowKind kind;
  DatasetId dataset = 0;
  int64_t number = 0;

  bool operator==(const RowKey&) const = default;
};

// Rows of a kind sort by dataset, then by number.
std::string EncodeRowKey(const RowKey& key);
absl::StatusOr<RowKey> DecodeRowKey(absl::string_view bytes);
// The prefix shared by all rows of a kind, or of a kind and dataset.
std::string RowPrefix(RowKind kind);
std::string RowPrefix(RowKind kind, DatasetId dataset);

// Key of a triple within its dataset's column family: sorts by index.
std::string EncodeTripleKey(int64_t index);
absl::StatusOr<int64_t> DecodeTripleKey(absl::string_view bytes);

// Name of a dataset's column family, "dataset-7".
std::string ColumnFamilyName(DatasetId dataset);
// 0 when the name is not one of ours.
DatasetId ParseColumnFamilyName(absl::string_view name);

// Value of a checksum row.
std::string EncodeChecksum(uint64_t checksum);
absl::StatusOr<uint64_t> DecodeChecksum(absl::string_view bytes);

// A triple's value: a header of kTripleHeaderBytes, then x's bytes.
inline constexpr size_t kTripleHeaderBytes = 56;
std::string EncodeTripleHeader(const v1::Triple& triple, const common::v1::DatasetRecipe& recipe);
// Checks version, header checksum, index, shape, dtype and x's checksum. DATA_LOSS says what
// differs.
absl::StatusOr<v1::Triple> DecodeTriple(absl::string_view value, int64_t index,
                                        const common::v1::DatasetRecipe& recipe);

// A sealed triple's part of the dataset digest: XXH3-64 of index and x_checksum, both 8 bytes
// little-endian. Parts are summed modulo 2^64.
uint64_t SealDigest(int64_t index, uint64_t x_checksum);

}  // namespace d2g::store

// The coordinator's rows and blobs on disk.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "coordinator/rows/row_changes.h"

namespace rocksdb {
class ColumnFamilyHandle;
class DB;
}  // namespace rocksdb

namespace d2g::coordinator {

// A RocksDB folder with two column families: "default" for rows, "blobs" for prompt lists and for
// rows that a start set aside.
// Acknowledged means synced: a caller that got OK can count on the rows after a crash. After a
// failed write the folder's state is unknown, so every later write fails too: the process has to
// start anew. Thread-safe; calls block.
class RowStore {
 public:
  // Room for what RocksDB writes by itself (a memtable's flush, its manifest).
  static constexpr int64_t kMinFreeBytes = 8 << 20;

  // Opens or makes the folder, raises and syncs the incarnation. Fails naming the folder and why:
  // another process has it, it cannot be written, it holds something else than a coordinator's rows
  // (which is left as it is), it was made for another number of shards, its format is unknown (all
  // FAILED_PRECONDITION), or its meta row is damaged (DATA_LOSS): without that nothing is known
  // about the others.
  static absl::StatusOr<std::unique_ptr<RowStore>> Open(const std::string& folder,
                                                        int32_t shard_count);
  ~RowStore();

  // Greater than at every earlier start.
  uint64_t incarnation() const { return incarnation_; }

  // Calls visit(key, value) for every row.
  absl::Status Scan(
      absl::FunctionRef<absl::Status(absl::string_view key, const std::string& value)> visit) const;
  // Writes all changes of all groups in one synced batch: all or nothing. A row that is set aside
  // becomes the blob "aside/{incarnation}/{key}".
  absl::Status Commit(const std::vector<RowChanges>& groups);
  // Rows that this start and earlier ones set aside.
  absl::StatusOr<int64_t> CountSetAside() const;

  // Blobs: synced like rows. NOT_FOUND when absent.
  absl::Status PutBlob(absl::string_view key, absl::string_view value);
  absl::StatusOr<std::string> GetBlob(absl::string_view key) const;

 private:
  RowStore() = default;
  absl::Status CheckSpace() const;

  std::string folder_;
  std::unique_ptr<rocksdb::DB> db_;
  std::vector<rocksdb::ColumnFamilyHandle*> handles_;
  uint64_t incarnation_ = 0;
};

}  // namespace d2g::coordinator

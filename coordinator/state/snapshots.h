// What each training epoch reads.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"
#include "coordinator/rows/tables.h"
#include "services/dataset/index_set.h"

namespace d2g::coordinator {

// Owns the rows of frozen sealed sets and, for each job, their union. A snapshot never changes.
// Thread-compatible.
class Snapshots {
 public:
  explicit Snapshots(Table<rows::v1::SnapshotRow> rows);

  // Null when it was not made.
  const rows::v1::SnapshotRow* Find(absl::string_view job, int64_t epoch) const;
  // All that the job's epochs read.
  const dataset::IndexSet& IndicesOf(absl::string_view job) const;

  // The part of `sealed` below `limit`. REQUIRES: there is none of the job and epoch.
  const rows::v1::SnapshotRow& Add(absl::string_view job, int64_t epoch,
                                   const dataset::IndexSet& sealed, int64_t limit);
  void Forget(absl::string_view job);

  void TakeChanges(RowChanges* changes) { rows_.TakeChanges(changes); }
  void CopyTo(RowChanges* all) const { rows_.CopyTo(all); }

 private:
  void Enter(absl::string_view job, const rows::v1::SnapshotRow& row);

  Table<rows::v1::SnapshotRow> rows_;
  std::map<std::string, dataset::IndexSet, std::less<>> indices_;  // by job
};

}  // namespace d2g::coordinator

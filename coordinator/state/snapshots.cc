#include "coordinator/state/snapshots.h"

namespace d2g::coordinator {

using rows::v1::SnapshotRow;

Snapshots::Snapshots(Table<SnapshotRow> rows) : rows_(std::move(rows)) {
  for (const auto& [id, row] : rows_.rows()) Enter(ParseChildId(id)->parent, row);
}

void Snapshots::Enter(absl::string_view job, const SnapshotRow& row) {
  dataset::IndexSet& indices = indices_[std::string(job)];
  for (const auto& range : row.ranges()) indices.Add(range.begin(), range.end());
}

const SnapshotRow* Snapshots::Find(absl::string_view job, int64_t epoch) const {
  return rows_.Find(ChildId(job, epoch));
}

const dataset::IndexSet& Snapshots::IndicesOf(absl::string_view job) const {
  static const auto* const none = new dataset::IndexSet();
  const auto it = indices_.find(job);
  return it == indices_.end() ? *none : it->second;
}

const SnapshotRow& Snapshots::Add(absl::string_view job, int64_t epoch,
                                  const dataset::IndexSet& sealed, int64_t limit) {
  SnapshotRow& row = rows_.Mutable(ChildId(job, epoch));
  dataset::AppendRanges(sealed, 0, limit, row.mutable_ranges());
  Enter(job, row);
  return row;
}

void Snapshots::Forget(absl::string_view job) {
  rows_.EraseChildren(job);
  if (const auto it = indices_.find(job); it != indices_.end()) indices_.erase(it);
}

}  // namespace d2g::coordinator

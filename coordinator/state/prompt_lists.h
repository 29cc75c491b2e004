// The prompt lists that were uploaded; their bytes are blobs.
#pragma once

#include <utility>

#include "absl/strings/string_view.h"
#include "coordinator/rows/tables.h"

namespace d2g::coordinator {

// Owns the rows, by digest; a list never changes. Thread-compatible.
class PromptLists {
 public:
  explicit PromptLists(Table<rows::v1::PromptListRow> rows) : rows_(std::move(rows)) {}

  // Null when it was never uploaded.
  const rows::v1::PromptListRow* Find(absl::string_view digest) const { return rows_.Find(digest); }
  // Does nothing when it is there.
  void Add(absl::string_view digest, const rows::v1::PromptListRow& row) {
    if (Find(digest) == nullptr) rows_.Mutable(digest) = row;
  }

  void TakeChanges(RowChanges* changes) { rows_.TakeChanges(changes); }
  void CopyTo(RowChanges* all) const { rows_.CopyTo(all); }

 private:
  Table<rows::v1::PromptListRow> rows_;
};

}  // namespace d2g::coordinator

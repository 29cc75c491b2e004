// One kind of row: the rows in memory, and which of them changed since they were last persisted.
#pragma once

#include <map>
#include <ranges>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "coordinator/rows/row_changes.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"

namespace d2g::coordinator {

// `Row` is a message. A row's key on disk is the table's prefix followed by its id.
// Thread-compatible.
template <typename Row>
class Table {
 public:
  using Rows = std::map<std::string, Row, std::less<>>;

  // `prefix` ends in '/'.
  explicit Table(std::string prefix) : prefix_(std::move(prefix)) {}

  const std::string& prefix() const { return prefix_; }
  const Rows& rows() const { return rows_; }
  // Null when absent. The pointer lives until the row is erased.
  const Row* Find(absl::string_view id) const {
    auto it = rows_.find(id);
    return it == rows_.end() ? nullptr : &it->second;
  }
  // The rows whose ids are ChildId(parent, n), as a range of (id, row) in the order of n. Erasing
  // one of them ends the range's use.
  auto Children(absl::string_view parent) const {
    // They all begin with "{parent}/", and '0' is the character that follows '/'.
    return std::ranges::subrange(rows_.lower_bound(absl::StrCat(parent, "/")),
                                 rows_.lower_bound(absl::StrCat(parent, "0")));
  }
  // The row, made if absent; it counts as changed.
  Row& Mutable(absl::string_view id) {
    dirty_.emplace(id);
    return rows_[std::string(id)];
  }
  void Erase(absl::string_view id) {
    auto it = rows_.find(id);
    if (it == rows_.end()) return;
    dirty_.emplace(id);
    rows_.erase(it);
  }
  void EraseChildren(absl::string_view parent) {
    std::vector<std::string> ids;
    for (const auto& [id, row] : Children(parent)) ids.push_back(id);
    for (const std::string& id : ids) Erase(id);
  }
  // Takes a row from disk; it does not count as changed.
  void Load(absl::string_view id, Row row) { rows_[std::string(id)] = std::move(row); }
  // Forgets a row that Load took; neither does this.
  void Unload(const std::string& id) { rows_.erase(id); }
  // Moves what changed since the last call to the end of `changes`.
  void TakeChanges(RowChanges* changes) {
    for (const std::string& id : dirty_) {
      const Row* row = Find(id);
      RowChange& change = changes->emplace_back();
      change.key = absl::StrCat(prefix_, id);
      if (row != nullptr) change.value = Bytes(*row);
    }
    dirty_.clear();
  }

  // Appends every row.
  void CopyTo(RowChanges* all) const {
    for (const auto& [id, row] : rows_) all->push_back({absl::StrCat(prefix_, id), Bytes(row)});
  }

 private:
  // Map fields in a fixed order, so that equal rows have equal bytes.
  static std::string Bytes(const Row& row) {
    std::string bytes;
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    row.SerializeToCodedStream(&coded);
    coded.Trim();
    return bytes;
  }

  std::string prefix_;
  Rows rows_;
  std::set<std::string, std::less<>> dirty_;
};

}  // namespace d2g::coordinator

#include "coordinator/tables.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace d2g::coordinator {
namespace {

// Calls visit(table) for each table.
template <typename T, typename Visit>
void ForEachTable(T& tables, Visit visit) {
  visit(tables.jobs);
  visit(tables.datasets);
  visit(tables.seals);
  visit(tables.dropped);
  visit(tables.shards);
  visit(tables.leases);
  visit(tables.failures);
  visit(tables.checkpoints);
  visit(tables.snapshots);
  visit(tables.gangs);
  visit(tables.prompt_lists);
}

}  // namespace

absl::Status Tables::Load(absl::string_view key, const std::string& value) {
  if (key == kMetaKey) return absl::OkStatus();
  bool found = false;
  absl::Status status;
  ForEachTable(*this, [&](auto& table) {
    absl::string_view id = key;
    if (found || !absl::ConsumePrefix(&id, table.prefix())) return;
    found = true;
    status = table.Load(id, value);
  });
  if (!found) return absl::DataLossError(absl::StrCat("row \"", key, "\" is of no known kind"));
  return status;
}

RowChanges Tables::TakeChanges() {
  RowChanges changes;
  ForEachTable(*this, [&](auto& table) { table.TakeChanges(&changes); });
  return changes;
}

RowChanges Tables::AllRows() const {
  RowChanges all;
  ForEachTable(*this, [&](const auto& table) { table.CopyTo(&all); });
  return all;
}

}  // namespace d2g::coordinator

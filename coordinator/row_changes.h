// Rows that a decision changed.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace d2g::coordinator {

struct RowChange {
  std::string key;
  // Absent: the row is deleted.
  std::optional<std::string> value;
};

// In no particular order, each key once.
using RowChanges = std::vector<RowChange>;

}  // namespace d2g::coordinator

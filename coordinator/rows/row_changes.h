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
  // The row is deleted, and `value`, its bytes, is kept where no start reads it (row_store.h).
  bool set_aside = false;
};

// To be made in this order. A key comes once; twice when it is set aside and then written anew.
using RowChanges = std::vector<RowChange>;

}  // namespace d2g::coordinator

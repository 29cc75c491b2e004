// Prompt lists: a text file, one prompt a line.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace d2g::common {

inline constexpr int64_t kMaxPromptBytes = 1000;
inline constexpr int64_t kMaxPrompts = 10'000'000;
// Of the whole list, as it is uploaded.
inline constexpr int64_t kMaxPromptListBytes = 256 << 20;

struct PromptLines {
  // In the file's order; triples refer to positions.
  std::vector<std::string> lines;
  // "xxh3-128:" and 32 hex digits over the lines, each ended by \n.
  std::string digest;
};

// Refuses, with INVALID_ARGUMENT naming the line (from 1), what is wrong and the limit: a list
// without lines or with more than kMaxPrompts, an empty (or blank) line, one above kMaxPromptBytes,
// one that is not UTF-8. The last line need not end in \n; a \r before \n is dropped.
absl::StatusOr<PromptLines> ParsePromptList(absl::string_view text);

}  // namespace d2g::common

// Prompt lists: a text file, one prompt a line.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "services/common/digest.h"

namespace d2g::common {

inline constexpr int64_t kMaxPromptBytes = 1000;
inline constexpr int64_t kMaxPrompts = 10'000'000;
// Of the whole list, as it is uploaded.
inline constexpr int64_t kMaxPromptListBytes = 256 << 20;

// Checks a list that comes in pieces, cut anywhere, and takes its digest. Needs no memory for what
// it has seen. Not thread-safe.
class PromptListChecker {
 public:
  // Called with each line, without its end. The view does not outlive the call.
  using Sink = absl::FunctionRef<void(absl::string_view line)>;

  // Refuses, with INVALID_ARGUMENT naming the line (from 1), what is wrong and the limit: more than
  // kMaxPrompts lines, an empty (or blank) line, one above kMaxPromptBytes, one that is not UTF-8.
  // A \r before \n is dropped. After an error nothing may be added.
  absl::Status Add(absl::string_view piece, Sink sink);
  // Ends the list, whose last line need not end in \n; refuses one without lines. Returns its
  // digest: "xxh3-128:" and 32 hex digits over the lines, each ended by \n. Call once.
  absl::StatusOr<std::string> Finish(Sink sink);
  // Lines so far.
  int64_t count() const { return count_; }

 private:
  absl::Status AddLine(absl::string_view line, Sink sink);

  // The beginning of a line whose end has not come.
  std::string partial_;
  int64_t count_ = 0;
  Digester digester_;
};

struct PromptLines {
  // In the file's order; triples refer to positions.
  std::vector<std::string> lines;
  // As PromptListChecker::Finish returns it.
  std::string digest;
};

// A whole list; refuses what PromptListChecker refuses.
absl::StatusOr<PromptLines> ParsePromptList(absl::string_view text);

}  // namespace d2g::common

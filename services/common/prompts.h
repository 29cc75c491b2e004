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
// Bytes of a whole list, as it is uploaded.
inline constexpr int64_t kMaxPromptListBytes = 256 << 20;

// Checks a list that comes in pieces, cut anywhere, and takes its digest. Needs no memory for what
// it has seen. Not thread-safe.
class PromptListChecker {
 public:
  // Called with each line, without its end. The view does not outlive the call.
  using Sink = absl::FunctionRef<void(absl::string_view line)>;

  // Lines end in \n or \r\n, the last one need not. More than kMaxPrompts are
  // refused at once with INVALID_ARGUMENT, after which nothing may be added. The sink sees no line
  // after a bad one.
  absl::Status Add(absl::string_view piece, Sink sink);
  // Ends the list and returns its digest: "xxh3-128:" and 32 hex digits over the lines, each ended
  // by \n. Blank lines at the end are nothing. Refuses, with INVALID_ARGUMENT, a list without
  // lines, and lines that are blank, longer than kMaxPromptBytes, not UTF-8 or hold a NUL: the
  // message counts them and tells of the first three the number (from 1), what is wrong and the
  // limit. Call once.
  absl::StatusOr<std::string> Finish(Sink sink);
  // Good lines so far.
  int64_t count() const { return count_; }

 private:
  // A line of `bytes` in all, of which `line` may be the beginning when they are too many.
  absl::Status AddLine(absl::string_view line, int64_t bytes, Sink sink);
  void NoteBad(int64_t line, const std::string& why);

  // The beginning of a line whose end has not come, and how much of it has.
  std::string partial_;
  int64_t partial_bytes_ = 0;
  // Lines seen, good ones among them, and blank ones just before this place: they count only when
  // another line follows.
  int64_t line_ = 0;
  int64_t count_ = 0;
  int64_t blank_ = 0;
  int64_t bad_count_ = 0;
  // The first of the bad lines.
  std::vector<std::string> bad_;
  Digester digester_;
};

struct PromptLines {
  // In the file's order; triples refer to positions.
  std::vector<std::string> lines;
  // As PromptListChecker::Finish returns it.
  std::string digest;
};

// A list as it travels and is stored; refuses what PromptListChecker refuses.
absl::StatusOr<PromptLines> ParsePromptList(absl::string_view text);

// A list as an editor wrote it: as above, and a byte order mark at its start is dropped, and a \r
// alone ends a line too.
absl::StatusOr<PromptLines> ParsePromptFile(absl::string_view text);

// Bytes of one message of an upload or download of a list.
inline constexpr size_t kPromptChunkBytes = size_t{1} << 20;

}  // namespace d2g::common

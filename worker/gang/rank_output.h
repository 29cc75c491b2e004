// Passes on what ranks write.
#pragma once

#include <unistd.h>

#include <string>
#include <string_view>

namespace d2g::gang {

// Writes the line to stderr in one call, so that lines of several ranks do not mix; with `prefix`
// as "[rank 1] line".
inline void WriteRankLine(int rank, std::string_view line, bool prefix) {
  std::string text = prefix ? "[rank " + std::to_string(rank) + "] " : "";
  text += line;
  text += '\n';
  // A lost line is no reason to stop.
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text.data(), text.size());
}

}  // namespace d2g::gang

#include "services/common/prompts.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "services/common/status_macros.h"
#include "services/common/utf8.h"

namespace d2g::common {

absl::Status PromptListChecker::Add(absl::string_view piece, Sink sink) {
  while (!piece.empty()) {
    const size_t end = piece.find('\n');
    const absl::string_view part = piece.substr(0, end);
    piece.remove_prefix(end == absl::string_view::npos ? piece.size() : end + 1);
    if (end != absl::string_view::npos && partial_.empty()) {
      D2G_RETURN_IF_ERROR(AddLine(part, sink));
      continue;
    }
    absl::StrAppend(&partial_, part);
    if (end != absl::string_view::npos) {
      D2G_RETURN_IF_ERROR(AddLine(partial_, sink));
      partial_.clear();
    }
  }
  // A line that is too long already is not collected further.
  if (static_cast<int64_t>(partial_.size()) > kMaxPromptBytes + 1) return AddLine(partial_, sink);
  return absl::OkStatus();
}

absl::Status PromptListChecker::AddLine(absl::string_view line, Sink sink) {
  if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
  const auto bad = [&](const std::string& why) {
    return absl::InvalidArgumentError(absl::StrCat("prompt list: line ", count_ + 1, " ", why));
  };
  if (count_ == kMaxPrompts) {
    return bad(absl::StrCat("is one too many: the limit is ", kMaxPrompts, " prompts"));
  }
  if (absl::StripAsciiWhitespace(line).empty()) return bad("is empty");
  if (static_cast<int64_t>(line.size()) > kMaxPromptBytes) {
    return bad(absl::StrCat("has ", line.size(), " bytes; the limit is ", kMaxPromptBytes));
  }
  if (!IsUtf8(line)) return bad("is not UTF-8");
  digester_.Update(line);
  digester_.Update("\n");
  ++count_;
  sink(line);
  return absl::OkStatus();
}

absl::StatusOr<std::string> PromptListChecker::Finish(Sink sink) {
  if (!partial_.empty()) D2G_RETURN_IF_ERROR(AddLine(partial_, sink));
  if (count_ == 0) {
    return absl::InvalidArgumentError(
        "prompt list: it has no lines; at least one prompt is needed");
  }
  return digester_.Text();
}

absl::StatusOr<PromptLines> ParsePromptList(absl::string_view text) {
  PromptLines result;
  // Growing would need twice the room for a moment.
  result.lines.reserve(static_cast<size_t>(
      std::min<int64_t>(std::count(text.begin(), text.end(), '\n') + 1, kMaxPrompts)));
  const auto keep = [&result](absl::string_view line) { result.lines.emplace_back(line); };
  PromptListChecker checker;
  D2G_RETURN_IF_ERROR(checker.Add(text, keep));
  D2G_ASSIGN_OR_RETURN(result.digest, checker.Finish(keep));
  return result;
}

}  // namespace d2g::common

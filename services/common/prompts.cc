#include "services/common/prompts.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "services/common/status_macros.h"
#include "services/common/utf8.h"

namespace d2g::common {
namespace {

constexpr char kByteOrderMark[] = "\xef\xbb\xbf";
constexpr size_t kBadLinesShown = 3;

// What is kept of a line that a piece cut: enough to see that it is too long.
constexpr size_t kMaxPartialBytes = kMaxPromptBytes + 2;

// What is wrong with a line that is not blank; empty: nothing.
std::string Fault(absl::string_view line, int64_t bytes) {
  if (bytes > kMaxPromptBytes) {
    return absl::StrCat("has ", bytes, " bytes; the limit is ", kMaxPromptBytes);
  }
  if (absl::StrContains(line, '\0')) return "holds a NUL character";
  return IsUtf8(line) ? "" : "is not UTF-8";
}

}  // namespace

absl::Status PromptListChecker::Add(absl::string_view piece, Sink sink) {
  while (!piece.empty()) {
    const size_t end = piece.find('\n');
    const bool ends = end != absl::string_view::npos;
    const absl::string_view part = piece.substr(0, end);
    piece.remove_prefix(ends ? end + 1 : piece.size());
    if (ends && partial_bytes_ == 0) {
      D2G_RETURN_IF_ERROR(AddLine(part, static_cast<int64_t>(part.size()), sink));
      continue;
    }
    // More of a line that is too long already is only counted.
    absl::StrAppend(&partial_,
                    part.substr(0, kMaxPartialBytes - std::min(partial_.size(), kMaxPartialBytes)));
    partial_bytes_ += static_cast<int64_t>(part.size());
    if (ends) {
      D2G_RETURN_IF_ERROR(AddLine(partial_, partial_bytes_, sink));
      partial_.clear();
      partial_bytes_ = 0;
    }
  }
  return absl::OkStatus();
}

absl::Status PromptListChecker::AddLine(absl::string_view line, int64_t bytes, Sink sink) {
  ++line_;
  if (bytes == static_cast<int64_t>(line.size()) && absl::ConsumeSuffix(&line, "\r")) --bytes;
  if (bytes <= kMaxPromptBytes && absl::StripAsciiWhitespace(line).empty()) {
    ++blank_;
    return absl::OkStatus();
  }
  for (; blank_ > 0; --blank_) NoteBad(line_ - blank_, "is empty");
  if (count_ == kMaxPrompts) {
    return absl::InvalidArgumentError(absl::StrCat(
        "prompt list: line ", line_, " is one too many: the limit is ", kMaxPrompts, " prompts"));
  }
  if (const std::string fault = Fault(line, bytes); !fault.empty()) {
    NoteBad(line_, fault);
    return absl::OkStatus();
  }
  digester_.Update(line);
  digester_.Update("\n");
  ++count_;
  if (bad_count_ == 0) sink(line);
  return absl::OkStatus();
}

void PromptListChecker::NoteBad(int64_t line, const std::string& why) {
  ++bad_count_;
  if (bad_.size() < kBadLinesShown) bad_.push_back(absl::StrCat("line ", line, " ", why));
}

absl::StatusOr<std::string> PromptListChecker::Finish(Sink sink) {
  if (partial_bytes_ > 0) D2G_RETURN_IF_ERROR(AddLine(partial_, partial_bytes_, sink));
  if (bad_count_ == 1) return absl::InvalidArgumentError("prompt list: " + bad_.front());
  if (bad_count_ > 1) {
    const int64_t more = bad_count_ - static_cast<int64_t>(bad_.size());
    return absl::InvalidArgumentError(
        absl::StrCat("prompt list: ", bad_count_, " bad lines: ", absl::StrJoin(bad_, "; "),
                     more > 0 ? absl::StrCat("; and ", more, " more") : ""));
  }
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

absl::StatusOr<PromptLines> ParsePromptFile(absl::string_view text) {
  absl::ConsumePrefix(&text, kByteOrderMark);
  const auto alone = [&text](size_t at) {
    return text[at] == '\r' && (at + 1 == text.size() || text[at + 1] != '\n');
  };
  size_t at = 0;
  while (at < text.size() && !alone(at)) ++at;
  if (at == text.size()) return ParsePromptList(text);
  std::string lines(text);
  for (; at < lines.size(); ++at) {
    if (alone(at)) lines[at] = '\n';
  }
  return ParsePromptList(lines);
}

}  // namespace d2g::common

#include "services/common/prompts.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "services/common/digest.h"
#include "services/common/utf8.h"

namespace d2g::common {

absl::StatusOr<PromptLines> ParsePromptList(absl::string_view text) {
  PromptLines result;
  Digester digester;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    absl::string_view line = text.substr(0, end);
    text.remove_prefix(end == absl::string_view::npos ? text.size() : end + 1);
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    const auto bad = [&](const std::string& why) {
      return absl::InvalidArgumentError(
          absl::StrCat("prompt list: line ", result.lines.size() + 1, " ", why));
    };
    if (static_cast<int64_t>(result.lines.size()) == kMaxPrompts) {
      return bad(absl::StrCat("is one too many: the limit is ", kMaxPrompts, " prompts"));
    }
    if (absl::StripAsciiWhitespace(line).empty()) return bad("is empty");
    if (static_cast<int64_t>(line.size()) > kMaxPromptBytes) {
      return bad(absl::StrCat("has ", line.size(), " bytes; the limit is ", kMaxPromptBytes));
    }
    if (!IsUtf8(line)) return bad("is not UTF-8");
    digester.Update(line);
    digester.Update("\n");
    result.lines.emplace_back(line);
  }
  if (result.lines.empty()) {
    return absl::InvalidArgumentError(
        "prompt list: it has no lines; at least one prompt is needed");
  }
  result.digest = digester.Text();
  return result;
}

}  // namespace d2g::common

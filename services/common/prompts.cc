#include "services/common/prompts.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "services/common/digest.h"

namespace d2g::common {
namespace {

// Well-formed UTF-8 (Unicode table 3-7: no overlong forms, no surrogates, nothing above U+10FFFF).
bool IsUtf8(absl::string_view text) {
  size_t i = 0;
  const auto byte = [&](size_t at) { return static_cast<unsigned char>(text[at]); };
  while (i < text.size()) {
    const unsigned char lead = byte(i);
    if (lead < 0x80) {
      ++i;
      continue;
    }
    size_t more = 0;
    unsigned char low = 0x80;
    unsigned char high = 0xBF;
    if (lead >= 0xC2 && lead <= 0xDF) {
      more = 1;
    } else if (lead >= 0xE0 && lead <= 0xEF) {
      more = 2;
      if (lead == 0xE0) low = 0xA0;
      if (lead == 0xED) high = 0x9F;
    } else if (lead >= 0xF0 && lead <= 0xF4) {
      more = 3;
      if (lead == 0xF0) low = 0x90;
      if (lead == 0xF4) high = 0x8F;
    } else {
      return false;
    }
    if (i + more >= text.size()) return false;
    if (byte(i + 1) < low || byte(i + 1) > high) return false;
    for (size_t k = 2; k <= more; ++k) {
      if ((byte(i + k) & 0xC0) != 0x80) return false;
    }
    i += more + 1;
  }
  return true;
}

}  // namespace

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

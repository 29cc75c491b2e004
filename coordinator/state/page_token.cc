#include "coordinator/state/page_token.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "coordinator/rows/limits.h"
#include "services/common/utf8.h"

namespace d2g::coordinator {

absl::StatusOr<int> PageSize(int32_t requested) {
  if (requested < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("page_size: ", requested, " is negative; 0 takes ", kDefaultPageSize));
  }
  if (requested == 0) return kDefaultPageSize;
  return std::min(requested, kMaxPageSize);
}

std::string EncodePageToken(absl::string_view listing, absl::string_view last_key) {
  return absl::WebSafeBase64Escape(absl::StrCat(listing, "\n", last_key));
}

absl::StatusOr<std::string> DecodePageToken(absl::string_view listing, absl::string_view token) {
  if (token.empty()) return std::string();
  std::string text;
  if (absl::WebSafeBase64Unescape(token, &text)) {
    absl::string_view key = text;
    if (absl::ConsumePrefix(&key, absl::StrCat(listing, "\n"))) return std::string(key);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("page_token: \"", d2g::common::ValidUtf8(token, kMaxIdBytes),
                   "\" does not come from an answer of this listing"));
}

}  // namespace d2g::coordinator

#include "coordinator/state/page_token.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "coordinator/rows/limits.h"
#include "services/common/status_macros.h"
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
      absl::StrCat("page_token: \"", common::ValidUtf8(token, kMaxIdBytes),
                   "\" does not come from an answer of this listing"));
}

absl::StatusOr<Page> Page::Begin(std::string listing, int32_t page_size,
                                 absl::string_view page_token) {
  D2G_ASSIGN_OR_RETURN(const int room, PageSize(page_size));
  D2G_ASSIGN_OR_RETURN(std::string after, DecodePageToken(listing, page_token));
  return Page(std::move(listing), room, std::move(after));
}

bool Page::Take(absl::string_view key) {
  if (room_ == 0) {
    next_token_ = EncodePageToken(listing_, last_);
    return false;
  }
  --room_;
  last_ = std::string(key);
  return true;
}

}  // namespace d2g::coordinator

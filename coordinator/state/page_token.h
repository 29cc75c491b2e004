// Pages of listings.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace d2g::coordinator {

// 0: kDefaultPageSize; too big: kMaxPageSize; negative: INVALID_ARGUMENT.
absl::StatusOr<int> PageSize(int32_t requested);

// An opaque token that says after which key the next page begins, in which listing.
std::string EncodePageToken(absl::string_view listing, absl::string_view last_key);
// The key; empty for an empty token. INVALID_ARGUMENT when it is not a token of this listing.
absl::StatusOr<std::string> DecodePageToken(absl::string_view listing, absl::string_view token);

// One page of a listing while it is filled: entries are offered in the listing's order, from the
// first one behind after(). Thread-compatible.
class Page {
 public:
  // INVALID_ARGUMENT as of PageSize and DecodePageToken.
  static absl::StatusOr<Page> Begin(std::string listing, int32_t page_size,
                                    absl::string_view page_token);
  // Key of the last entry on the page before; empty for the first page.
  const std::string& after() const { return after_; }
  // Whether there is room for the entry with this key, which is then counted. Once there is none,
  // next_token() says where the next page begins.
  bool Take(absl::string_view key);
  // Empty while everything offered had room.
  const std::string& next_token() const { return next_token_; }

 private:
  Page(std::string listing, int room, std::string after)
      : listing_(std::move(listing)), room_(room), after_(std::move(after)) {}

  std::string listing_;
  int room_;
  std::string after_;
  std::string last_;
  std::string next_token_;
};

}  // namespace d2g::coordinator

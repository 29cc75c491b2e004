// Pages of listings.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace d2g::coordinator {

// 0: kDefaultPageSize; too big: kMaxPageSize; negative: INVALID_ARGUMENT.
absl::StatusOr<int> PageSize(int32_t requested);

// An opaque token that says after which key the next page begins, in which listing.
std::string EncodePageToken(absl::string_view listing, absl::string_view last_key);
// The key; empty for an empty token. INVALID_ARGUMENT when it is not a token of this listing.
absl::StatusOr<std::string> DecodePageToken(absl::string_view listing, absl::string_view token);

}  // namespace d2g::coordinator

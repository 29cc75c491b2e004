// UTF-8 as protobuf's string fields demand it. Pure.
#pragma once

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace d2g::common {

// Well-formed (Unicode table 3-7: no overlong forms, no surrogates, nothing above U+10FFFF).
bool IsUtf8(absl::string_view text);

// At most `max_bytes` of the text, cut between characters, with a '?' for each byte that belongs to
// no character: messages quote files, which hold anything, and a peer refuses a request with a
// string that is not UTF-8.
std::string ValidUtf8(absl::string_view text, size_t max_bytes);

}  // namespace d2g::common

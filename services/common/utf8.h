// UTF-8 as protobuf's string fields demand it, and as a terminal may be given it. Pure.
#pragma once

#include <cstddef>
#include <limits>
#include <string>

#include "absl/strings/string_view.h"

namespace d2g::common {

// Bytes of one failure's text, wherever one travels or is kept.
inline constexpr size_t kMaxFailureBytes = 2000;
// What ValidUtf8 ends a text with that it had to cut.
inline constexpr char kCutMark[] = "... (shortened)";

// Well-formed (Unicode table 3-7: no overlong forms, no surrogates, nothing above U+10FFFF).
bool IsUtf8(absl::string_view text);

// The text with a '?' for each byte that belongs to no character. Where that has more than
// `max_bytes`, it is cut between two characters and ended with kCutMark, at most `max_bytes` in all
// (a limit too small for the mark has none). Use it on any text from outside this program (a peer,
// a file, an exception) before it goes into a message: with a string that is not UTF-8 a request or
// a row cannot be parsed.
std::string ValidUtf8(absl::string_view text,
                      size_t max_bytes = std::numeric_limits<size_t>::max());

// Whether the text holds something that a terminal obeys instead of showing it: a control character
// (U+0000-001F, U+007F-009F), or one that turns the direction of what follows (U+061C, U+200E,
// U+200F, U+202A-202E, U+2066-2069).
bool HoldsControl(absl::string_view text);

// ValidUtf8 with each of HoldsControl's characters as \n, \t, \r or \uHHHH: what others wrote, on
// one line of a terminal. A backslash stays as it is.
std::string WithoutControls(absl::string_view text);

}  // namespace d2g::common

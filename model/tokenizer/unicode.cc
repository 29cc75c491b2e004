#include "model/tokenizer/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <string_view>

#include "model/files/error.h"
#include "model/tokenizer/unicode_tables.h"

namespace d2g::model {

namespace {

bool Contains(const CodeRange* table, size_t count, char32_t c) {
  const CodeRange* end = table + count;
  const CodeRange* it = std::lower_bound(
      table, end, c, [](const CodeRange& range, char32_t code) { return range.last < code; });
  return it != end && it->first <= c;
}

// Whether the general category lies between the two, as utf8proc orders them.
bool HasCategory(char32_t c, utf8proc_category_t first, utf8proc_category_t last) {
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return first <= category && category <= last;
}

// Nothing below this code point decomposes into, or is, a combining mark that is kept apart: text
// that stays below it is composed already.
constexpr char32_t kFirstMark = 0x300;

// Whether that version neither orders nor composes `c`, which utf8proc does. Such a character ends
// what can be composed before it and begins nothing.
bool IsUnknown(char32_t c, Normalization version) {
  if (c < kFirstMark) return false;
  return version == Normalization::kTokenizers
             ? Contains(kNewerNormalizationTable, kNewerNormalizationCount, c)
             : Contains(kMoreControlsTable, kMoreControlsCount, c);
}

// Appends `c`, which composing gave, or what it is composed of where that version does not know it.
void AppendKnown(char32_t c, Normalization version, std::u32string& out) {
  if (!IsUnknown(c, version)) {
    out += c;
    return;
  }
  std::array<utf8proc_int32_t, 4> parts;
  int boundary = 0;
  const utf8proc_ssize_t count = utf8proc_decompose_char(
      static_cast<utf8proc_int32_t>(c), parts.data(), parts.size(), UTF8PROC_DECOMPOSE, &boundary);
  for (utf8proc_ssize_t i = 0; i < count; ++i) {
    out += static_cast<char32_t>(parts[static_cast<size_t>(i)]);
  }
}

// Appends what utf8proc composes `text` to. REQUIRES: `text` holds nothing that IsUnknown.
void AppendComposed(std::u32string_view text, Normalization version, std::u32string& out) {
  std::string bytes;
  for (const char32_t c : text) AppendUtf8(c, bytes);
  utf8proc_uint8_t* composed = nullptr;
  const utf8proc_ssize_t size =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(bytes.data()),
                   static_cast<utf8proc_ssize_t>(bytes.size()), &composed,
                   static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  if (size < 0) Fail("text cannot be normalized: ", utf8proc_errmsg(size));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(composed, &std::free);
  const std::string made(reinterpret_cast<const char*>(composed), static_cast<size_t>(size));
  for (const char32_t c : DecodeUtf8(made)) AppendKnown(c, version, out);
}

bool IsCased(char32_t c) {
  return HasCategory(c, UTF8PROC_CATEGORY_LU, UTF8PROC_CATEGORY_LT) ||
         Contains(kMoreCasedTable, kMoreCasedCount, c);
}

bool IsCaseIgnorable(char32_t c) {
  if (IsCased(c)) return false;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
      return true;
    default:
      return Contains(kMoreCaseIgnorableTable, kMoreCaseIgnorableCount, c);
  }
}

char32_t LowerOne(char32_t c) {
  const CodePair* end = kMoreLowerTable + kMoreLowerCount;
  const CodePair* it = std::lower_bound(
      kMoreLowerTable, end, c, [](const CodePair& row, char32_t code) { return row.from < code; });
  if (it != end && it->from == c) return it->to;
  return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
}

// A capital sigma after a cased letter and not before one is final; case-ignorable characters
// between do not count.
bool IsFinalSigma(const std::u32string& text, size_t at) {
  size_t before = at;
  while (before > 0 && IsCaseIgnorable(text[before - 1])) --before;
  if (before == 0 || !IsCased(text[before - 1])) return false;
  size_t after = at + 1;
  while (after < text.size() && IsCaseIgnorable(text[after])) ++after;
  return after == text.size() || !IsCased(text[after]);
}

}  // namespace

std::u32string DecodeUtf8(const std::string& text) {
  std::u32string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    utf8proc_int32_t code = 0;
    const utf8proc_ssize_t length =
        utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + i,
                         static_cast<utf8proc_ssize_t>(text.size() - i), &code);
    if (length <= 0) Fail("text is not valid UTF-8 at byte ", i);
    out += static_cast<char32_t>(code);
    i += static_cast<size_t>(length);
  }
  return out;
}

void AppendUtf8(char32_t c, std::string& out) {
  std::array<utf8proc_uint8_t, 4> bytes;
  const utf8proc_ssize_t length =
      utf8proc_encode_char(static_cast<utf8proc_int32_t>(c), bytes.data());
  out.append(reinterpret_cast<const char*>(bytes.data()), static_cast<size_t>(length));
}

bool IsLetter(char32_t c) {
  if (c < 0x80) return (c | 0x20) >= 'a' && (c | 0x20) <= 'z';
  return HasCategory(c, UTF8PROC_CATEGORY_LU, UTF8PROC_CATEGORY_LO) ||
         Contains(kMoreLettersTable, kMoreLettersCount, c);
}

bool IsNumber(char32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  return HasCategory(c, UTF8PROC_CATEGORY_ND, UTF8PROC_CATEGORY_NO) ||
         Contains(kMoreNumbersTable, kMoreNumbersCount, c);
}

bool IsControl(char32_t c) {
  if (c == '\t' || c == '\n' || c == '\r') return false;
  return HasCategory(c, UTF8PROC_CATEGORY_CC, UTF8PROC_CATEGORY_CO) ||
         HasCategory(c, UTF8PROC_CATEGORY_CN, UTF8PROC_CATEGORY_CN) ||
         Contains(kMoreControlsTable, kMoreControlsCount, c);
}

bool IsSpace(char32_t c) {
  if (c > 0x20 && c < 0x7F) return false;
  // The bidirectional class tells what the category does not: tabs, line ends, separators.
  switch (utf8proc_get_property(static_cast<utf8proc_int32_t>(c))->bidi_class) {
    case UTF8PROC_BIDI_CLASS_B:
    case UTF8PROC_BIDI_CLASS_S:
    case UTF8PROC_BIDI_CLASS_WS:
      return true;
    default:
      return IsSeparator(c);
  }
}

bool IsWhiteSpace(char32_t c) { return IsSpace(c) && (c < 0x1C || c > 0x1F); }

bool IsSeparator(char32_t c) { return HasCategory(c, UTF8PROC_CATEGORY_ZS, UTF8PROC_CATEGORY_ZS); }

bool IsWord(char32_t c) {
  // From the letters over the marks to the decimal and the letter-like numbers.
  return HasCategory(c, UTF8PROC_CATEGORY_LU, UTF8PROC_CATEGORY_NL) ||
         HasCategory(c, UTF8PROC_CATEGORY_PC, UTF8PROC_CATEGORY_PC) ||
         Contains(kMoreWordTable, kMoreWordCount, c);
}

bool IsCjkIdeograph(char32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) ||
         (c >= 0x20000 && c <= 0x2A6DF) || (c >= 0x2A700 && c <= 0x2B73F) ||
         (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B820 && c <= 0x2CEAF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

std::u32string NormalizeNfc(const std::u32string& text, Normalization version) {
  if (std::all_of(text.begin(), text.end(), [](char32_t c) { return c < kFirstMark; })) {
    return text;
  }
  std::u32string out;
  const std::u32string_view all(text);
  size_t begin = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    if (!IsUnknown(all[i], version)) continue;
    AppendComposed(all.substr(begin, i - begin), version, out);
    out += all[i];
    begin = i + 1;
  }
  AppendComposed(all.substr(begin), version, out);
  return out;
}

std::u32string ToLower(const std::u32string& text, bool final_sigma) {
  std::u32string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const char32_t c = text[i];
    if (c < 0x80) {
      out += c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c;
    } else if (c == 0x130) {  // the one letter whose lower case is two code points
      out += U"i\u0307";
    } else if (c == 0x3A3 && final_sigma && IsFinalSigma(text, i)) {
      out += char32_t{0x3C2};
    } else {
      out += LowerOne(c);
    }
  }
  return out;
}

}  // namespace d2g::model

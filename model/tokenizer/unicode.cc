#include "model/tokenizer/unicode.h"

#include <algorithm>

#include "model/files/error.h"
#include "model/tokenizer/unicode_tables.h"

namespace d2g::model {

namespace {

constexpr char32_t kHangulFirst = 0xAC00, kHangulL = 0x1100, kHangulV = 0x1161, kHangulT = 0x11A7;
constexpr char32_t kHangulLCount = 19, kHangulVCount = 21, kHangulTCount = 28;
constexpr char32_t kHangulCount = kHangulLCount * kHangulVCount * kHangulTCount;

bool Contains(const CodeRange* table, size_t count, char32_t c) {
  const CodeRange* end = table + count;
  const CodeRange* it = std::lower_bound(
      table, end, c, [](const CodeRange& range, char32_t code) { return range.last < code; });
  return it != end && it->first <= c;
}

// Nothing below this code point decomposes into, or is, a combining mark that is kept apart: text
// that stays below it is composed already.
constexpr char32_t kFirstMark = 0x300;

bool IsUnknown(char32_t c, Normalization version) {
  return version == Normalization::kTokenizers &&
         Contains(kNewerNormalizationTable, kNewerNormalizationCount, c);
}

int CombiningClass(char32_t c, Normalization version) {
  if (c < kFirstMark || IsUnknown(c, version)) return 0;
  const CodeTriple* end = kCombiningClassTable + kCombiningClassCount;
  const CodeTriple* it =
      std::lower_bound(kCombiningClassTable, end, c,
                       [](const CodeTriple& row, char32_t code) { return row.b < code; });
  return it != end && it->a <= c ? static_cast<int>(it->c) : 0;
}

void Decompose(char32_t c, Normalization version, std::u32string& out) {
  if (c >= kHangulFirst && c < kHangulFirst + kHangulCount) {
    const char32_t index = c - kHangulFirst;
    out += kHangulL + index / (kHangulVCount * kHangulTCount);
    out += kHangulV + index % (kHangulVCount * kHangulTCount) / kHangulTCount;
    if (index % kHangulTCount != 0) out += kHangulT + index % kHangulTCount;
    return;
  }
  const CodeTriple* end = kDecompositionTable + kDecompositionCount;
  const CodeTriple* it =
      std::lower_bound(kDecompositionTable, end, c,
                       [](const CodeTriple& row, char32_t code) { return row.a < code; });
  if (it == end || it->a != c || IsUnknown(c, version)) {
    out += c;
    return;
  }
  Decompose(it->b, version, out);
  if (it->c != 0) Decompose(it->c, version, out);
}

// The composed code point, or 0.
char32_t Compose(char32_t first, char32_t second, Normalization version) {
  if (first >= kHangulL && first < kHangulL + kHangulLCount && second >= kHangulV &&
      second < kHangulV + kHangulVCount) {
    return kHangulFirst +
           ((first - kHangulL) * kHangulVCount + (second - kHangulV)) * kHangulTCount;
  }
  if (first >= kHangulFirst && first < kHangulFirst + kHangulCount &&
      (first - kHangulFirst) % kHangulTCount == 0 && second > kHangulT &&
      second < kHangulT + kHangulTCount) {
    return first + (second - kHangulT);
  }
  const CodeTriple* end = kCompositionTable + kCompositionCount;
  const CodeTriple key{first, second, 0};
  const CodeTriple* it = std::lower_bound(
      kCompositionTable, end, key, [](const CodeTriple& row, const CodeTriple& wanted) {
        return row.a != wanted.a ? row.a < wanted.a : row.b < wanted.b;
      });
  if (it == end || it->a != first || it->b != second || IsUnknown(it->c, version)) return 0;
  return it->c;
}

// A capital sigma after a cased letter and not before one is final; case-ignorable characters
// between do not count.
bool IsFinalSigma(const std::u32string& text, size_t at) {
  auto ignorable = [](char32_t c) { return Contains(kCaseIgnorableTable, kCaseIgnorableCount, c); };
  auto cased = [](char32_t c) { return Contains(kCasedTable, kCasedCount, c); };
  size_t before = at;
  while (before > 0 && ignorable(text[before - 1])) --before;
  if (before == 0 || !cased(text[before - 1])) return false;
  size_t after = at + 1;
  while (after < text.size() && ignorable(text[after])) ++after;
  return after == text.size() || !cased(text[after]);
}

}  // namespace

std::u32string DecodeUtf8(const std::string& text) {
  std::u32string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<uint8_t>(text[i]);
    const int more = lead < 0x80 ? 0 : lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : 1;
    char32_t code = more == 0 ? lead : lead & (0x3F >> more);
    bool valid = lead < 0x80 || (lead >= 0xC2 && lead <= 0xF4);
    for (int k = 1; valid && k <= more; ++k) {
      valid = i + k < text.size() && (static_cast<uint8_t>(text[i + k]) & 0xC0) == 0x80;
      if (valid) code = code << 6 | (static_cast<uint8_t>(text[i + k]) & 0x3F);
    }
    constexpr char32_t kLeast[] = {0, 0x80, 0x800, 0x10000};
    if (!valid || code < kLeast[more] || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) {
      Fail("text is not valid UTF-8 at byte ", i);
    }
    out += code;
    i += static_cast<size_t>(more) + 1;
  }
  return out;
}

void AppendUtf8(char32_t c, std::string& out) {
  if (c < 0x80) {
    out += static_cast<char>(c);
    return;
  }
  const int more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
  // The lead byte starts with one bit more than bytes follow.
  out += static_cast<char>((0xFF00 >> (more + 1) & 0xFF) | c >> (6 * more));
  for (int k = more - 1; k >= 0; --k) out += static_cast<char>(0x80 | (c >> (6 * k) & 0x3F));
}

bool IsLetter(char32_t c) {
  if (c < 0x80) return (c | 0x20) >= 'a' && (c | 0x20) <= 'z';
  return Contains(kLetterTable, kLetterCount, c);
}

bool IsNumber(char32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  return Contains(kNumberTable, kNumberCount, c);
}

bool IsControl(char32_t c) {
  if (c >= 0x20 && c < 0x7F) return false;
  return Contains(kControlTable, kControlCount, c);
}

bool IsSpace(char32_t c) {
  if (c > 0x20 && c < 0x7F) return false;
  return Contains(kSpaceTable, kSpaceCount, c);
}

bool IsWhiteSpace(char32_t c) { return IsSpace(c) && (c < 0x1C || c > 0x1F); }

bool IsSeparator(char32_t c) {
  if (c < 0x80) return c == ' ';
  return Contains(kSeparatorTable, kSeparatorCount, c);
}

bool IsWord(char32_t c) { return Contains(kWordTable, kWordCount, c); }

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
  std::u32string parts;
  for (const char32_t c : text) Decompose(c, version, parts);
  // Canonical order: marks after a starter sorted by class, stably.
  for (size_t i = 0; i < parts.size();) {
    if (CombiningClass(parts[i], version) == 0) {
      ++i;
      continue;
    }
    size_t end = i;
    while (end < parts.size() && CombiningClass(parts[end], version) != 0) ++end;
    std::stable_sort(parts.begin() + static_cast<std::ptrdiff_t>(i),
                     parts.begin() + static_cast<std::ptrdiff_t>(end),
                     [version](char32_t a, char32_t b) {
                       return CombiningClass(a, version) < CombiningClass(b, version);
                     });
    i = end;
  }
  std::u32string out;
  size_t starter = std::u32string::npos;
  int last_class = 0;
  for (const char32_t c : parts) {
    const int combining = CombiningClass(c, version);
    if (starter != std::u32string::npos) {
      const bool adjacent = starter + 1 == out.size();
      // Blocked when something of the same or a higher class stands between.
      if (adjacent || (last_class != 0 && last_class < combining)) {
        const char32_t composed = Compose(out[starter], c, version);
        if (composed != 0) {
          out[starter] = composed;
          continue;
        }
      }
    }
    if (combining == 0) starter = out.size();
    last_class = combining;
    out += c;
  }
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
      const CodePair* end = kLowerTable + kLowerCount;
      const CodePair* it = std::lower_bound(
          kLowerTable, end, c, [](const CodePair& row, char32_t code) { return row.from < code; });
      out += it != end && it->from == c ? it->to : c;
    }
  }
  return out;
}

}  // namespace d2g::model

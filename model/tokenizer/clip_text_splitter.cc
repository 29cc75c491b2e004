#include "model/tokenizer/clip_text_splitter.h"

#include "model/tokenizer/unicode.h"

namespace d2g::model {

namespace {

constexpr char32_t kReplacement = 0xFFFD;
constexpr char32_t kLongS = 0x17F;
// The one mark with a capital that is a letter: ignoring case, the slow pattern's "neither letter
// nor number" excludes it, while its "letter" does not include it.
constexpr char32_t kIotaSubscript = 0x345;

// Whether `text` holds `wanted` at `at`; with the slow pattern the long s counts as an s.
bool Matches(std::u32string_view text, size_t at, std::u32string_view wanted,
             SplitPattern pattern) {
  if (text.size() - at < wanted.size()) return false;
  for (size_t i = 0; i < wanted.size(); ++i) {
    const char32_t c = text[at + i];
    const bool same =
        c == wanted[i] || (pattern == SplitPattern::kSlow && c == kLongS && wanted[i] == U's');
    if (!same) return false;
  }
  return true;
}

// The length of the text of the start or end token at `at`, or 0.
size_t EndTokenLength(std::u32string_view text, size_t at, SplitPattern pattern) {
  if (text[at] != U'<' || pattern == SplitPattern::kFast) return 0;
  for (const std::u32string_view token : {U"<|startoftext|>", U"<|endoftext|>"}) {
    if (Matches(text, at, token, pattern)) return token.size();
  }
  return 0;
}

// The length of the contraction at `at`, or 0.
size_t ContractionLength(std::u32string_view text, size_t at, SplitPattern pattern) {
  if (text[at] != U'\'') return 0;
  for (const std::u32string_view suffix : {U"'s", U"'t", U"'re", U"'ve", U"'m", U"'ll", U"'d"}) {
    if (Matches(text, at, suffix, pattern)) return suffix.size();
  }
  return 0;
}

// What belongs to no piece.
bool IsSkipped(char32_t c, SplitPattern pattern) {
  return IsWhiteSpace(c) || (pattern == SplitPattern::kSlow && c == kIotaSubscript);
}

}  // namespace

std::u32string CleanSlow(std::u32string_view text) {
  std::u32string kept;
  kept.reserve(text.size());
  for (const char32_t c : text) {
    if (c == 0 || c == kReplacement || IsControl(c)) continue;
    if (c == '\t' || c == '\n' || c == '\r' || IsSeparator(c)) {
      kept += U' ';
    } else if (IsCjkIdeograph(c)) {
      kept += U' ';
      kept += c;
      kept += U' ';
    } else {
      kept += c;
    }
  }
  const std::u32string composed = NormalizeNfc(kept, Normalization::kPython);
  std::u32string out;
  out.reserve(composed.size());
  for (size_t i = 0; i < composed.size();) {
    size_t end = i;
    while (end < composed.size() && !IsSpace(composed[end])) ++end;
    if (end > i) {
      if (!out.empty()) out += U' ';
      out += ToLower(composed.substr(i, end - i), /*final_sigma=*/true);
    }
    i = end + 1;
  }
  return out;
}

std::u32string CleanFast(std::u32string_view text) {
  std::u32string out;
  out.reserve(text.size());
  for (const char32_t c : NormalizeNfc(std::u32string(text), Normalization::kTokenizers)) {
    if (!IsWhiteSpace(c)) {
      out += c;
    } else if (out.empty() || out.back() != U' ') {
      out += U' ';
    }
  }
  return ToLower(out, /*final_sigma=*/false);
}

std::vector<std::u32string_view> SplitPieces(std::u32string_view text, SplitPattern pattern) {
  std::vector<std::u32string_view> pieces;
  for (size_t i = 0; i < text.size();) {
    if (IsSkipped(text[i], pattern)) {
      ++i;
      continue;
    }
    size_t length = EndTokenLength(text, i, pattern);
    if (length > 0 && pattern == SplitPattern::kFast5) {
      constexpr size_t kBracket = 2;  // "<|" and "|>"
      pieces.push_back(text.substr(i, kBracket));
      pieces.push_back(text.substr(i + kBracket, length - 2 * kBracket));
      pieces.push_back(text.substr(i + length - kBracket, kBracket));
      i += length;
      continue;
    }
    if (length == 0) length = ContractionLength(text, i, pattern);
    if (length == 0 && IsNumber(text[i])) length = 1;
    if (length == 0) {
      const bool letters = IsLetter(text[i]);
      const auto continues = [&](char32_t c) {
        return letters ? IsLetter(c) : !IsLetter(c) && !IsNumber(c) && !IsSkipped(c, pattern);
      };
      while (i + length < text.size() && continues(text[i + length])) ++length;
    }
    pieces.push_back(text.substr(i, length));
    i += length;
  }
  return pieces;
}

}  // namespace d2g::model

#include "services/common/utf8.h"

#include "absl/strings/str_format.h"

namespace d2g::common {
namespace {

// Bytes of the character that `text`, which is not empty, begins with; 0 when it begins with none.
size_t CharacterLength(absl::string_view text) {
  const auto byte = [&](size_t at) { return static_cast<unsigned char>(text[at]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  size_t length = 0;
  unsigned char low = 0x80;
  unsigned char high = 0xBF;
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return 0;
  }
  if (length > text.size() || byte(1) < low || byte(1) > high) return 0;
  for (size_t i = 2; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  return length;
}

// The number of the character of `length` bytes that `text` begins with.
char32_t CodePoint(absl::string_view text, size_t length) {
  const auto lead = static_cast<unsigned char>(text[0]);
  if (length == 1) return lead;
  char32_t point = lead & (0x7Fu >> length);
  for (size_t i = 1; i < length; ++i) {
    point = (point << 6) | (static_cast<unsigned char>(text[i]) & 0x3Fu);
  }
  return point;
}

bool IsControl(char32_t point) {
  return point < 0x20 || (point >= 0x7F && point <= 0x9F) || point == 0x061C || point == 0x200E ||
         point == 0x200F || (point >= 0x202A && point <= 0x202E) ||
         (point >= 0x2066 && point <= 0x2069);
}

// Calls visit(character, length) for each character; `length` is 0 for a byte of none, and then
// `character` is that byte. Stops when visit returns false.
template <typename Visit>
void ForEachCharacter(absl::string_view text, Visit visit) {
  while (!text.empty()) {
    const size_t length = CharacterLength(text);
    const size_t bytes = length == 0 ? 1 : length;
    if (!visit(text.substr(0, bytes), length)) return;
    text.remove_prefix(bytes);
  }
}

void AppendEscaped(char32_t point, std::string* out) {
  switch (point) {
    case '\n':
      *out += "\\n";
      return;
    case '\t':
      *out += "\\t";
      return;
    case '\r':
      *out += "\\r";
      return;
    default:
      absl::StrAppendFormat(out, "\\u%04x", static_cast<uint32_t>(point));
  }
}

}  // namespace

bool IsUtf8(absl::string_view text) {
  bool valid = true;
  ForEachCharacter(text, [&](absl::string_view, size_t length) { return valid = length > 0; });
  return valid;
}

std::string ValidUtf8(absl::string_view text, size_t max_bytes) {
  const absl::string_view mark =
      sizeof(kCutMark) - 1 <= max_bytes ? absl::string_view(kCutMark) : absl::string_view();
  std::string valid;
  size_t fits_with_mark = 0;  // the end of the last character after which the mark has room
  bool cut = false;
  ForEachCharacter(text, [&](absl::string_view character, size_t length) {
    const absl::string_view next = length == 0 ? "?" : character;
    if (valid.size() + next.size() > max_bytes) {
      cut = true;
      return false;
    }
    valid.append(next.data(), next.size());
    if (valid.size() <= max_bytes - mark.size()) fits_with_mark = valid.size();
    return true;
  });
  if (cut) {
    valid.resize(fits_with_mark);
    valid.append(mark.data(), mark.size());
  }
  return valid;
}

bool HoldsControl(absl::string_view text) {
  bool holds = false;
  ForEachCharacter(text, [&](absl::string_view character, size_t length) {
    holds = length > 0 && IsControl(CodePoint(character, length));
    return !holds;
  });
  return holds;
}

std::string WithoutControls(absl::string_view text) {
  std::string shown;
  shown.reserve(text.size());
  ForEachCharacter(text, [&](absl::string_view character, size_t length) {
    if (length == 0) {
      shown += '?';
    } else if (const char32_t point = CodePoint(character, length); IsControl(point)) {
      AppendEscaped(point, &shown);
    } else {
      shown.append(character.data(), character.size());
    }
    return true;
  });
  return shown;
}

}  // namespace d2g::common

// A token that is cut out of text before byte-pair encoding.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace d2g::model {

// The tokenizers package's AddedToken.
struct AddedToken {
  std::string content;  // UTF-8
  bool single_word = false;
  bool lstrip = false;  // takes the white space before it
  bool rstrip = false;  // takes the white space after it
  bool special = false;
  std::optional<bool> normalized = std::nullopt;  // unset: special tokens are not, others are

  // Whether the fast tokenizer looks for it in normalised text.
  bool IsNormalized() const { return normalized.value_or(!special); }
  friend bool operator==(const AddedToken& a, const AddedToken& b) {
    return a.content == b.content && a.single_word == b.single_word && a.lstrip == b.lstrip &&
           a.rstrip == b.rstrip && a.special == b.special && a.IsNormalized() == b.IsNormalized();
  }
};

// A special token as a tokenizer's constructor gets it: some are treated differently when they came
// as a bare string.
struct SpecialToken {
  AddedToken token;
  bool is_text = true;
};

// A stretch of text: an added token (id at least 0), or text between them (id -1).
struct TextPart {
  std::u32string_view text;
  int64_t id = -1;
};

}  // namespace d2g::model

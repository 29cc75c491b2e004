// What a tokenizer folder says about special tokens, lengths and sides, put together as
// transformers does: from tokenizer_config.json, or, where that lists no added tokens, also from
// special_tokens_map.json, added_tokens.json and tokenizer.json.
// Source: transformers 4.57.6 and 5.24.0, tokenization_utils_base.py (_from_pretrained).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "model/tokenizer/added_token.h"

namespace d2g::model {

// Which of transformers' classes runs: how text is cleaned before byte-pair encoding, and how the
// folder's files are put together.
enum class TokenizerFlavour {
  kSlow,   // 4's CLIPTokenizer without ftfy: drops control characters, sets CJK characters apart
  kFast,   // 4's CLIPTokenizerFast: NFC, white space, lower case only
  kFast5,  // 5's CLIPTokenizer, which is fast; CLIPTokenizerFast is another name for it there
};

struct TokenizerSettings {
  // Reads the folder's files, each where it is there. Throws Error naming file, option and value.
  static TokenizerSettings FromFolder(const std::string& folder, TokenizerFlavour flavour);

  // The special tokens in the order of their roles (begin, end, unknown, separator, padding, class,
  // mask, additional, extra), those left out that an earlier role has.
  std::vector<SpecialToken> Specials() const;
  // Those of transformers 5 that have a name: begin to mask, then `extra`. A content may repeat.
  std::vector<SpecialToken> Named() const;

  SpecialToken bos, eos, pad;
  std::optional<SpecialToken> unk;  // null in the file: none
  std::optional<SpecialToken> sep, cls, mask;
  // Transformers 4: additional_special_tokens and extra_special_tokens. Transformers 5: tokens
  // without and with a name, whatever lists them.
  std::vector<SpecialToken> additional, extra;
  // Added tokens with the ids that they were saved with, in the order of the files.
  std::vector<std::pair<int64_t, AddedToken>> added;
  int64_t model_max_length = 77;
  std::optional<std::string> padding_side, truncation_side;  // "left" or "right"
  bool split_special_tokens = false;
};

}  // namespace d2g::model

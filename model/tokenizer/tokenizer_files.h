// The vocabulary and merges of a tokenizer folder: vocab.json and merges.txt, or tokenizer.json.
// All functions throw IoError for a file that cannot be opened and Error, naming file and place,
// for one that is not as it should be.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "model/tokenizer/added_token.h"
#include "model/tokenizer/byte_pair_encoding.h"
#include "model/tokenizer/clip_text_splitter.h"

namespace d2g::model {

// Ids above are refused: no embedding table is that long.
inline constexpr int64_t kMaxTokenId = (int64_t{1} << 31) - 1;

// A JSON object of token ids.
Vocabulary ReadVocabulary(const std::string& path);

// A line with two symbols for each merge, after a first line that is skipped. As many are read as
// the original model had, which is what transformers does.
MergeList ReadMerges(const std::string& path);

// `value` as a token id, or throws Error that begins with `what`.
int64_t ParseTokenId(const nlohmann::json& value, const std::string& what);

// An object with "content" and flags; others of its keys are ignored.
AddedToken ParseAddedToken(const nlohmann::json& value, const std::string& what);

// The list "added_tokens" of a tokenizer.json with their ids; the rest of the file is skipped.
std::vector<std::pair<int64_t, AddedToken>> ReadAddedTokens(const std::string& path);

// A tokenizer.json, the format of the tokenizers package.
struct FastTokenizerFile {
  Vocabulary vocabulary;
  MergeList merges;
  SplitPattern split = SplitPattern::kFast;  // or kFast5
  std::optional<std::string> unk_token;
  std::vector<AddedToken> added_tokens;
  int64_t bos = 0, eos = 0;  // what its post-processor puts around text
  std::optional<std::string> padding_side, truncation_side;  // "left" or "right"
};

// Reads a tokenizer.json. Only the normaliser, pre-tokenizer, post-processor and kind of model of
// CLIPTokenizerFast, as transformers 4 and 5 write them, are supported; others are refused by name.
FastTokenizerFile ReadFastTokenizer(const std::string& path);

}  // namespace d2g::model

// Added tokens as transformers' slow tokenizers handle them.
// Source: transformers 4.57.6, tokenization_utils.py (Trie, PreTrainedTokenizer).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "model/tokenizer/added_token.h"
#include "model/tokenizer/byte_pair_encoding.h"
#include "model/tokenizer/token_trie.h"

namespace d2g::model {

// Built once; reading is thread-safe.
class SlowAddedTokens {
 public:
  // `saved` are tokens with the ids that they were saved with; a later one replaces an earlier one
  // of the same id. `specials` come in the order of their roles; those that have no id get one
  // after the vocabulary's.
  SlowAddedTokens(const Vocabulary& vocabulary,
                  const std::vector<std::pair<int64_t, AddedToken>>& saved,
                  const std::vector<SpecialToken>& specials);

  // The id of an added token, or -1.
  int64_t Find(const std::string& content) const;
  // Contents and ids.
  std::vector<std::pair<std::string, int64_t>> All() const;
  int64_t id_limit() const;

  struct Part {
    std::u32string text;
    int64_t id = -1;  // -1: not an added token
  };
  // Text and added tokens in turn.
  std::vector<Part> Split(const std::u32string& text) const;

 private:
  std::vector<std::u32string> Cut(const std::u32string& text) const;

  std::map<int64_t, AddedToken> by_id_;
  std::unordered_map<std::string, int64_t> ids_;
  std::unordered_map<std::u32string, int64_t> wide_ids_;
  TokenTrie trie_;
};

}  // namespace d2g::model

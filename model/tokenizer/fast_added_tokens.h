// Added tokens as the tokenizers package handles them.
// Source: tokenizers 0.22.2, tokenizer/added_vocabulary.rs.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "model/tokenizer/added_token.h"
#include "model/tokenizer/byte_pair_encoding.h"
#include "model/tokenizer/token_trie.h"

namespace d2g::model {

// Filled by calls of Add, each of which may refer to what came before; then Finish. After that
// reading is thread-safe.
class FastAddedTokens {
 public:
  // Adds tokens in order. One that is neither in the vocabulary nor added before gets the next id.
  void Add(const Vocabulary& vocabulary, const std::vector<AddedToken>& tokens);
  // Prepares Split. `normalize` is the tokenizer's normalisation.
  void Finish(const std::function<std::u32string(const std::u32string&)>& normalize);

  // The id of an added token, or -1.
  int64_t Find(const std::string& content) const;
  // Contents and ids.
  std::vector<std::pair<std::string, int64_t>> All() const { return {ids_.begin(), ids_.end()}; }
  int64_t id_limit() const;

  // Which tokens to look for: those that are found in normalised text, or the others.
  enum class Kind { kNotNormalized, kNormalized };
  // Text and added tokens in turn, pointing into `text`. With `split_special_tokens` the special
  // ones are not looked for.
  std::vector<TextPart> Split(std::u32string_view text, Kind kind, bool split_special_tokens) const;

 private:
  std::unordered_map<std::string, int64_t> ids_;
  std::map<int64_t, AddedToken> by_id_;
  std::vector<AddedToken> special_, plain_;
  std::set<std::string> special_contents_;
  std::vector<int64_t> pattern_ids_;  // what the tries' values point at
  TokenTrie normalized_, not_normalized_;
};

}  // namespace d2g::model

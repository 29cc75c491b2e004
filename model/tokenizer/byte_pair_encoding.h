// Byte-pair encoding as CLIP uses it: a piece of text becomes its UTF-8 bytes, each a symbol of its
// own (the last one marked as end of a word), and adjacent symbols are merged by rank.
// Source: transformers 4.57.6, models/clip/tokenization_clip.py; tokenizers 0.22.2, models/bpe.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/tokenizer/token_table.h"

namespace d2g::model {

// Tokens and their ids. Two tokens may share one.
class Vocabulary {
 public:
  void Reserve(size_t count);
  // A token that is there already gets the new id.
  void Set(std::string_view token, int64_t id);
  // The id of a token, or -1.
  int64_t Find(std::string_view token) const;
  size_t size() const { return tokens_.size(); }
  // One more than the largest id; 0 when empty.
  int64_t id_limit() const { return id_limit_; }
  const TokenTable& tokens() const { return tokens_; }
  const std::vector<int64_t>& ids() const { return ids_; }

 private:
  TokenTable tokens_;
  std::vector<int64_t> ids_;  // by number in tokens_
  int64_t id_limit_ = 0;
};

// Pairs of symbols in order of rank, with the text that they point into.
struct MergeList {
  std::shared_ptr<const std::string> text;
  std::vector<std::pair<std::string_view, std::string_view>> pairs;
};

// Immutable; thread-safe.
class BytePairEncoding {
 public:
  // Working memory of one call after the other; not shared between threads.
  struct Scratch {
    std::string bytes;
    std::vector<int32_t> symbols;
    std::vector<Merge> merges;
  };

  // transformers' own: symbols are strings, all occurrences of the best pair merge at once, and the
  // vocabulary is asked only in the end, where `overrides` (token, id) come before it.
  static BytePairEncoding MakeSlow(const Vocabulary& vocabulary, const MergeList& merges,
                                   const std::string& source,
                                   const std::optional<std::string>& unk_token,
                                   const std::vector<std::pair<std::string, int64_t>>& overrides);
  // The tokenizers package's: symbols are ids, one pair merges after the other. Throws Error naming
  // `source` for a merge of, or into, what is not in the vocabulary.
  static BytePairEncoding MakeFast(const Vocabulary& vocabulary, const MergeList& merges,
                                   const std::string& source,
                                   const std::optional<std::string>& unk_token);

  // Appends the ids of one piece, which is not empty. For a symbol that has no id, when the
  // unk_token has none either, the slow one appends -1 and the fast one throws Error.
  void Append(std::u32string_view piece, Scratch& scratch, std::vector<int64_t>& ids) const;

  // Throws the Error of a symbol without id.
  [[noreturn]] void FailUnknown() const;

 private:
  explicit BytePairEncoding(size_t merges) : merges_(merges) {}
  void MergeByRank(Scratch& scratch) const;
  void MergeByQueue(Scratch& scratch) const;

  bool fast_ = false;
  MergeTable merges_;
  std::array<int32_t, 256> inner_{}, last_{};  // symbol of a byte, in and at the end of a piece
  std::vector<int64_t> ids_;                   // by symbol; when fast, the symbol is the id
  std::string unknown_;                        // begins the message when there is no id
};

}  // namespace d2g::model

#include "model/tokenizer/fast_added_tokens.h"

#include <algorithm>

#include "model/tokenizer/unicode.h"

namespace d2g::model {

void FastAddedTokens::Add(const Vocabulary& vocabulary, const std::vector<AddedToken>& tokens) {
  for (const AddedToken& token : tokens) {
    if (token.special && !token.content.empty() && special_contents_.insert(token.content).second) {
      special_.push_back(token);
    }
  }
  int64_t next = std::max(static_cast<int64_t>(vocabulary.size()), id_limit());
  for (const AddedToken& token : tokens) {
    int64_t id = Find(token.content);
    if (token.content.empty() || (id >= 0 && by_id_.at(id) == token)) continue;
    if (id < 0) id = vocabulary.Find(token.content);
    if (id < 0) id = next++;
    ids_[token.content] = id;
    by_id_[id] = token;
    if (!special_contents_.contains(token.content)) plain_.push_back(token);
  }
}

void FastAddedTokens::Finish(
    const std::function<std::u32string(const std::u32string&)>& normalize) {
  for (const std::vector<AddedToken>* tokens : {&special_, &plain_}) {
    for (const AddedToken& token : *tokens) {
      const std::u32string content = DecodeUtf8(token.content);
      const int pattern = static_cast<int>(pattern_ids_.size());
      pattern_ids_.push_back(Find(token.content));
      if (token.IsNormalized()) {
        normalized_.Add(normalize(content), pattern);
      } else {
        not_normalized_.Add(content, pattern);
      }
    }
  }
}

int64_t FastAddedTokens::Find(const std::string& content) const {
  const auto it = ids_.find(content);
  return it == ids_.end() ? -1 : it->second;
}

int64_t FastAddedTokens::id_limit() const {
  return by_id_.empty() ? 0 : by_id_.rbegin()->first + 1;
}

std::vector<TextPart> FastAddedTokens::Split(std::u32string_view text, Kind kind,
                                             bool split_special_tokens) const {
  const TokenTrie& trie = kind == Kind::kNormalized ? normalized_ : not_normalized_;
  std::vector<TextPart> parts;
  size_t done = 0;
  for (size_t at = 0; at < text.size();) {
    int pattern = -1;
    size_t stop = at;
    int node = trie.root();
    for (size_t i = at; i < text.size(); ++i) {
      node = trie.Child(node, text[i]);
      if (node < 0) break;
      if (trie.Value(node) >= 0) {
        pattern = trie.Value(node);
        stop = i + 1;
      }
    }
    if (pattern < 0) {
      ++at;
      continue;
    }
    size_t start = at;
    at = stop;
    const AddedToken& token = by_id_.at(pattern_ids_[pattern]);
    if (split_special_tokens && special_contents_.contains(token.content)) continue;
    if (token.single_word &&
        ((start > 0 && IsWord(text[start - 1])) || (stop < text.size() && IsWord(text[stop])))) {
      continue;
    }
    if (token.lstrip) {
      while (start > 0 && IsWhiteSpace(text[start - 1])) --start;
      start = std::max(start, done);
    }
    if (token.rstrip) {
      while (stop < text.size() && IsWhiteSpace(text[stop])) ++stop;
    }
    if (done < start) parts.push_back({text.substr(done, start - done), -1});
    // A match within white space that the token before it took along leaves nothing.
    if (start < stop) parts.push_back({text.substr(start, stop - start), pattern_ids_[pattern]});
    done = stop;
  }
  if (done < text.size()) parts.push_back({text.substr(done), -1});
  return parts;
}

}  // namespace d2g::model

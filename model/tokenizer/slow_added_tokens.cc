#include "model/tokenizer/slow_added_tokens.h"

#include <utility>

#include "model/tokenizer/unicode.h"

namespace d2g::model {

namespace {

std::u32string StripLeft(const std::u32string& text) {
  size_t i = 0;
  while (i < text.size() && IsSpace(text[i])) ++i;
  return text.substr(i);
}

std::u32string StripRight(const std::u32string& text) {
  size_t i = text.size();
  while (i > 0 && IsSpace(text[i - 1])) --i;
  return text.substr(0, i);
}

}  // namespace

SlowAddedTokens::SlowAddedTokens(const Vocabulary& vocabulary,
                                 const std::vector<std::pair<int64_t, AddedToken>>& saved,
                                 const std::vector<SpecialToken>& specials) {
  for (const auto& [id, token] : saved) by_id_[id] = token;
  // Where one content has two ids, the one that was saved last counts.
  for (const auto& [id, token] : saved) ids_[by_id_[id].content] = id;
  std::map<std::string, int64_t> beside;  // the tokens known beside the vocabulary
  size_t known = vocabulary.size();
  for (const auto& [id, token] : by_id_) {
    if (vocabulary.Find(token.content) < 0 && !beside.contains(token.content)) ++known;
    beside[token.content] = id;
  }
  for (const SpecialToken& special : specials) {
    const AddedToken& token = special.token;
    if (token.content.empty() || (special.is_text && ids_.contains(token.content))) continue;
    int64_t id = vocabulary.Find(token.content);
    const auto it = beside.find(token.content);
    if (it != beside.end()) id = it->second;
    if (id < 0) id = static_cast<int64_t>(known++);
    beside[token.content] = id;
    by_id_[id] = token;
    ids_[token.content] = id;
  }
  for (const auto& [content, id] : ids_) wide_ids_[DecodeUtf8(content)] = id;
  for (const auto& [id, token] : by_id_) trie_.Add(DecodeUtf8(token.content), 0);
}

int64_t SlowAddedTokens::Find(const std::string& content) const {
  const auto it = ids_.find(content);
  return it == ids_.end() ? -1 : it->second;
}

std::vector<std::pair<std::string, int64_t>> SlowAddedTokens::All() const {
  return {ids_.begin(), ids_.end()};
}

int64_t SlowAddedTokens::id_limit() const {
  return by_id_.empty() ? 0 : by_id_.rbegin()->first + 1;
}

// Follows every possible start of a token at once and cuts at the first one that is complete,
// looking ahead for a longer one that starts as early. An earlier start that has just failed still
// takes part in looking ahead, one character on, so that a cut can span more than a token; such a
// stretch is then not found among the tokens and stays text.
std::vector<std::u32string> SlowAddedTokens::Cut(const std::u32string& text) const {
  struct State {
    size_t start;
    int node;
  };
  std::vector<State> states, kept;
  std::vector<size_t> offsets;
  size_t skip = 0;
  for (size_t current = 0; current < text.size(); ++current) {
    if (current < skip) continue;
    bool found = false;
    kept.clear();
    for (size_t k = 0; k < states.size() && !found; ++k) {
      if (trie_.Value(states[k].node) >= 0) {
        size_t start = states[k].start, end = current;
        for (const State& look : states) {
          if (look.start > start) break;
          size_t ahead = look.start < start ? current + 1 : current;
          int node = look.node;
          end = ahead;
          if (trie_.Value(node) >= 0) {
            start = look.start;
            skip = ahead;
          }
          while (ahead < text.size()) {
            node = trie_.Child(node, text[ahead]);
            if (node < 0) break;
            ++ahead;
            if (trie_.Value(node) >= 0) {
              start = look.start;
              end = ahead;
              skip = ahead;
            }
          }
        }
        offsets.push_back(start);
        offsets.push_back(end);
        found = true;
      } else {
        const int child = trie_.Child(states[k].node, text[current]);
        if (child >= 0) {
          states[k].node = child;
          kept.push_back(states[k]);
        }
      }
    }
    states.clear();
    if (!found) states = kept;
    if (current >= skip) {
      const int node = trie_.Child(trie_.root(), text[current]);
      if (node >= 0) states.push_back({current, node});
    }
  }
  for (const State& state : states) {
    if (trie_.Value(state.node) < 0) continue;
    offsets.push_back(state.start);
    break;
  }
  offsets.push_back(text.size());
  std::vector<std::u32string> parts;
  size_t start = 0;
  for (const size_t end : offsets) {
    if (start >= end) continue;
    parts.push_back(text.substr(start, end - start));
    start = end;
  }
  return parts;
}

std::vector<SlowAddedTokens::Part> SlowAddedTokens::Split(const std::u32string& text) const {
  std::vector<std::u32string> parts = Cut(text);
  for (size_t i = 0; i < parts.size(); ++i) {
    const auto it = wide_ids_.find(parts[i]);
    if (it == wide_ids_.end()) continue;
    const AddedToken& token = by_id_.at(it->second);
    if (!token.lstrip && !token.rstrip && !token.single_word) continue;
    const std::u32string left = i > 0 ? parts[i - 1] : U"";
    const std::u32string right = i + 1 < parts.size() ? parts[i + 1] : U"";
    if (token.rstrip && !right.empty()) parts[i + 1] = StripLeft(right);
    if (token.lstrip && !left.empty()) parts[i - 1] = StripRight(left);
    if (token.single_word && !left.empty() && left.back() != U' ') {
      parts[i - 1] += parts[i];
      parts[i].clear();
    } else if (token.single_word && !right.empty() && right.front() != U' ') {
      parts[i + 1] = parts[i] + parts[i + 1];
      parts[i].clear();
    }
  }
  std::vector<Part> out;
  for (std::u32string& part : parts) {
    if (part.empty()) continue;
    const auto it = wide_ids_.find(part);
    out.push_back({std::move(part), it == wide_ids_.end() ? -1 : it->second});
  }
  return out;
}

}  // namespace d2g::model

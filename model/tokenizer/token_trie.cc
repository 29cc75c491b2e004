#include "model/tokenizer/token_trie.h"

#include <algorithm>

namespace d2g::model {

void TokenTrie::Add(const std::u32string& text, int value) {
  if (text.empty()) return;
  int node = root();
  for (const char32_t c : text) {
    int child = Child(node, c);
    if (child < 0) {
      child = static_cast<int>(nodes_.size());
      auto& children = nodes_[node].children;
      children.insert(std::lower_bound(children.begin(), children.end(), std::pair(c, 0)),
                      std::pair(c, child));
      nodes_.emplace_back();
    }
    node = child;
  }
  if (nodes_[node].value < 0) nodes_[node].value = value;
}

int TokenTrie::Child(int node, char32_t c) const {
  const auto& children = nodes_[node].children;
  const auto it = std::lower_bound(children.begin(), children.end(), std::pair(c, 0));
  return it != children.end() && it->first == c ? it->second : -1;
}

}  // namespace d2g::model

// A prefix tree of strings, for finding added tokens in text.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace d2g::model {

// Reading is thread-safe.
class TokenTrie {
 public:
  TokenTrie() : nodes_(1) {}

  // `value` is at least 0. A string that is there already keeps its value; an empty one is not
  // added.
  void Add(const std::u32string& text, int value);

  int root() const { return 0; }
  // The node one character further, or -1.
  int Child(int node, char32_t c) const;
  // The value of the string that ends at `node`, or -1.
  int Value(int node) const { return nodes_[node].value; }
  bool empty() const { return nodes_.size() == 1; }

 private:
  struct Node {
    std::vector<std::pair<char32_t, int>> children;  // sorted
    int value = -1;
  };
  std::vector<Node> nodes_;
};

}  // namespace d2g::model

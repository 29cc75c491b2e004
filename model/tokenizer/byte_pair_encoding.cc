#include "model/tokenizer/byte_pair_encoding.h"

#include <algorithm>
#include <queue>

#include "model/files/error.h"
#include "model/tokenizer/unicode.h"

namespace d2g::model {

namespace {

constexpr const char* kEndOfWord = "</w>";
// Symbols of bytes that the fast vocabulary lacks.
constexpr int32_t kDropped = -1, kUnknown = -2;

// GPT-2's mapping of bytes to printable characters, as UTF-8.
std::vector<std::string> ByteSymbols() {
  std::vector<std::string> symbols(256);
  char32_t next = 256;
  for (int b = 0; b < 256; ++b) {
    const bool printable =
        (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
    AppendUtf8(printable ? static_cast<char32_t>(b) : next++, symbols[b]);
  }
  return symbols;
}

std::string UnknownText(const std::string& source, const std::optional<std::string>& unk_token) {
  return unk_token ? source + ": unk_token \"" + *unk_token + "\" has no id"
                   : source + ": there is no unk_token";
}

}  // namespace

void Vocabulary::Reserve(size_t count) {
  tokens_.Reserve(count);
  ids_.reserve(count);
}

void Vocabulary::Set(std::string_view token, int64_t id) {
  const auto number = static_cast<size_t>(tokens_.Intern(token));
  if (number == ids_.size()) ids_.push_back(id);
  ids_[number] = id;
  id_limit_ = std::max(id_limit_, id + 1);
}

int64_t Vocabulary::Find(std::string_view token) const {
  const int32_t number = tokens_.Find(token);
  return number < 0 ? -1 : ids_[number];
}

BytePairEncoding BytePairEncoding::MakeSlow(
    const Vocabulary& vocabulary, const MergeList& merges, const std::string& source,
    const std::optional<std::string>& unk_token,
    const std::vector<std::pair<std::string, int64_t>>& overrides) {
  BytePairEncoding bpe(merges.pairs.size());
  TokenTable symbols = vocabulary.tokens();
  const std::vector<std::string> bytes = ByteSymbols();
  for (size_t b = 0; b < 256; ++b) {
    bpe.inner_[b] = symbols.Intern(bytes[b]);
    bpe.last_[b] = symbols.Intern(bytes[b] + kEndOfWord);
  }
  std::string merged;
  for (size_t rank = 0; rank < merges.pairs.size(); ++rank) {
    const auto& [first, second] = merges.pairs[rank];
    merged.assign(first).append(second);
    const int32_t symbol = symbols.Intern(merged);
    bpe.merges_.Set(symbols.Intern(first), symbols.Intern(second),
                    {static_cast<int32_t>(rank), symbol});
  }
  bpe.ids_ = vocabulary.ids();
  bpe.ids_.resize(symbols.size(), unk_token ? vocabulary.Find(*unk_token) : -1);
  for (const auto& [token, id] : overrides) {
    const int32_t symbol = symbols.Find(token);
    if (symbol >= 0) bpe.ids_[symbol] = id;
  }
  bpe.unknown_ = UnknownText(source, unk_token);
  return bpe;
}

BytePairEncoding BytePairEncoding::MakeFast(const Vocabulary& vocabulary, const MergeList& merges,
                                            const std::string& source,
                                            const std::optional<std::string>& unk_token) {
  BytePairEncoding bpe(merges.pairs.size());
  bpe.fast_ = true;
  auto find = [&](std::string_view token) {
    const int64_t id = vocabulary.Find(token);
    if (id < 0) Fail(source, ": a merge needs the token \"", token, "\", which has no id");
    return static_cast<int32_t>(id);
  };
  int32_t unknown = unk_token ? kUnknown : kDropped;
  if (unk_token && vocabulary.Find(*unk_token) >= 0) unknown = find(*unk_token);
  const std::vector<std::string> bytes = ByteSymbols();
  for (size_t b = 0; b < 256; ++b) {
    const int64_t inner = vocabulary.Find(bytes[b]);
    const int64_t last = vocabulary.Find(bytes[b] + kEndOfWord);
    bpe.inner_[b] = inner < 0 ? unknown : static_cast<int32_t>(inner);
    bpe.last_[b] = last < 0 ? unknown : static_cast<int32_t>(last);
  }
  std::string merged;
  for (size_t rank = 0; rank < merges.pairs.size(); ++rank) {
    const auto& [first, second] = merges.pairs[rank];
    const int32_t left = find(first), right = find(second);
    merged.assign(first).append(second);
    bpe.merges_.Set(left, right, {static_cast<int32_t>(rank), find(merged)});
  }
  bpe.unknown_ = UnknownText(source, unk_token);
  return bpe;
}

void BytePairEncoding::FailUnknown() const {
  Fail(unknown_, ", and the text has a part that is not in the vocabulary");
}

void BytePairEncoding::MergeByRank(Scratch& scratch) const {
  std::vector<int32_t>& symbols = scratch.symbols;
  std::vector<Merge>& merges = scratch.merges;  // of each symbol with the next one
  merges.clear();
  for (size_t i = 0; i + 1 < symbols.size(); ++i) {
    merges.push_back(merges_.Find(symbols[i], symbols[i + 1]));
  }
  while (symbols.size() > 1) {
    int32_t best = Merge::kNone;
    for (const Merge& merge : merges) best = std::min(best, merge.rank);
    if (best == Merge::kNone) break;
    size_t out = 0;
    bool was_merged = false;
    for (size_t i = 0; i < symbols.size(); ++out) {
      const bool merge = i < merges.size() && merges[i].rank == best;
      const int32_t symbol = merge ? merges[i].symbol : symbols[i];
      if (out > 0) {
        merges[out - 1] =
            merge || was_merged ? merges_.Find(symbols[out - 1], symbol) : merges[i - 1];
      }
      symbols[out] = symbol;
      i += merge ? 2 : 1;
      was_merged = merge;
    }
    symbols.resize(out);
    merges.resize(out - 1);
  }
}

void BytePairEncoding::MergeByQueue(Scratch& scratch) const {
  struct Node {
    int32_t symbol;
    int previous, next;
    bool removed;
  };
  struct Candidate {
    int position;
    Merge merge;
    bool operator<(const Candidate& other) const {
      return merge.rank != other.merge.rank ? merge.rank > other.merge.rank
                                            : position > other.position;
    }
  };
  const int count = static_cast<int>(scratch.symbols.size());
  std::vector<Node> nodes;
  nodes.reserve(scratch.symbols.size());
  for (int i = 0; i < count; ++i) {
    nodes.push_back({scratch.symbols[i], i - 1, i + 1 < count ? i + 1 : -1, false});
  }
  std::priority_queue<Candidate> queue;
  auto offer = [&](int left, int right) {
    const Merge merge = merges_.Find(nodes[left].symbol, nodes[right].symbol);
    if (merge.rank != Merge::kNone) queue.push({left, merge});
  };
  for (int i = 0; i + 1 < count; ++i) offer(i, i + 1);
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    Node& left = nodes[top.position];
    if (left.removed || left.next < 0) continue;
    Node& right = nodes[left.next];
    // An entry is out of date when its pair now merges into something else.
    const Merge merge = merges_.Find(left.symbol, right.symbol);
    if (merge.rank == Merge::kNone || merge.symbol != top.merge.symbol) continue;
    left.symbol = merge.symbol;
    left.next = right.next;
    right.removed = true;
    if (left.next >= 0) nodes[left.next].previous = top.position;
    if (left.previous >= 0) offer(left.previous, top.position);
    if (left.next >= 0) offer(top.position, left.next);
  }
  scratch.symbols.clear();
  for (const Node& node : nodes) {
    if (!node.removed) scratch.symbols.push_back(node.symbol);
  }
}

void BytePairEncoding::Append(std::u32string_view piece, Scratch& scratch,
                              std::vector<int64_t>& ids) const {
  scratch.bytes.clear();
  for (const char32_t c : piece) AppendUtf8(c, scratch.bytes);
  scratch.symbols.clear();
  for (const char byte : scratch.bytes) {
    scratch.symbols.push_back(inner_[static_cast<uint8_t>(byte)]);
  }
  scratch.symbols.back() = last_[static_cast<uint8_t>(scratch.bytes.back())];
  if (!fast_) {
    MergeByRank(scratch);
    for (const int32_t symbol : scratch.symbols) ids.push_back(ids_[symbol]);
    return;
  }
  if (std::count(scratch.symbols.begin(), scratch.symbols.end(), kUnknown) > 0) {
    FailUnknown();
  }
  std::erase(scratch.symbols, kDropped);
  MergeByQueue(scratch);
  ids.insert(ids.end(), scratch.symbols.begin(), scratch.symbols.end());
}

}  // namespace d2g::model

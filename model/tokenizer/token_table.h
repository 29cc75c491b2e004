// Strings numbered in the order in which they came, and merges of two such numbers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace d2g::model {

// A set of strings, each with its number from 0 on. Reading is thread-safe.
class TokenTable {
 public:
  // Makes room for `count` strings.
  void Reserve(size_t count);
  // The number of `text`, which is added if it is new.
  int32_t Intern(std::string_view text);
  // The number of `text`, or -1.
  int32_t Find(std::string_view text) const;
  // Valid until the next Intern.
  std::string_view Text(int32_t number) const;
  size_t size() const { return ends_.size(); }

 private:
  struct Slot {
    uint32_t hash = 0;
    int32_t number = -1;
  };

  // The slot that holds `text`, or the free one where it belongs.
  size_t SlotOf(std::string_view text, uint32_t hash) const;
  void Rehash(size_t slots);

  std::string characters_;
  std::vector<size_t> ends_;  // of each string in characters_
  std::vector<Slot> slots_;   // a power of two of them, at most half of them used
};

// What becomes of two adjacent symbols: a lower rank merges earlier.
struct Merge {
  static constexpr int32_t kNone = std::numeric_limits<int32_t>::max();
  int32_t rank = kNone;
  int32_t symbol = -1;
};

// Merges by pair of symbols. Reading is thread-safe.
class MergeTable {
 public:
  explicit MergeTable(size_t capacity);
  // Replaces what was there for the pair. At most `capacity` pairs.
  void Set(int32_t first, int32_t second, Merge merge);
  // The merge of a pair; rank kNone when it has none.
  Merge Find(int32_t first, int32_t second) const {
    const uint64_t pair = Pair(first, second);
    for (size_t i = Slot(pair);; i = (i + 1) & (entries_.size() - 1)) {
      if (entries_[i].pair == pair) return entries_[i].merge;
      if (entries_[i].pair == kFree) return {};
    }
  }

 private:
  struct Entry {
    uint64_t pair;
    Merge merge;
  };
  static constexpr uint64_t kFree = ~uint64_t{0};

  static uint64_t Pair(int32_t first, int32_t second) {
    return uint64_t{static_cast<uint32_t>(first)} << 32 | static_cast<uint32_t>(second);
  }
  size_t Slot(uint64_t pair) const {
    // Multiplicative hashing: the high bits depend on every bit of the pair.
    return (pair * 0x9E3779B97F4A7C15) >> shift_;
  }

  std::vector<Entry> entries_;
  int shift_ = 0;
};

}  // namespace d2g::model

// A set of triple indices as a short list of ranges.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <utility>
#include <vector>

namespace d2g::dataset {

// Half-open: begin, begin + 1, ..., end - 1.
struct Range {
  int64_t begin = 0;
  int64_t end = 0;

  int64_t size() const { return end - begin; }
};

// Not thread-safe; const members may be called together. What takes a range [begin, end) wants
// 0 <= begin; an empty one changes nothing.
class IndexSet {
 public:
  using Ranges = std::map<int64_t, int64_t>;  // begin -> end; neither overlap nor touch

  IndexSet() = default;
  // In any order, overlaps allowed. Throws std::invalid_argument for begin < 0 or end < begin.
  explicit IndexSet(const std::vector<Range>& ranges);

  // Adds a range; returns how many indices are new.
  int64_t Add(int64_t begin, int64_t end);
  // Removes a range; returns how many indices were there.
  int64_t Remove(int64_t begin, int64_t end);

  bool Contains(int64_t index) const;
  // Indices of [begin, end) that are in the set.
  int64_t Count(int64_t begin, int64_t end) const;
  // The multiples of `every` among them (0: none).
  int64_t CountMultiples(int64_t begin, int64_t end, int64_t every) const;
  // Indices in all.
  int64_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

  // First index >= `from` that is not in the set.
  int64_t FirstAbsent(int64_t from) const;
  // First index >= `from` that is in the set.
  std::optional<int64_t> FirstPresent(int64_t from) const;

  // The part within [begin, end), ascending.
  std::vector<std::pair<int64_t, int64_t>> Within(int64_t begin, int64_t end) const;
  const Ranges& ranges() const { return ranges_; }

  friend bool operator==(const IndexSet& a, const IndexSet& b) { return a.ranges_ == b.ranges_; }

 private:
  Ranges ranges_;
  int64_t size_ = 0;
};

// Multiples of `every` in [begin, end), 0 <= begin; 0 when `every` is 0.
int64_t MultiplesIn(int64_t begin, int64_t end, int64_t every);

// Appends the part of `set` within [begin, end) to a repeated field of
// common.v1.IndexRange.
template <typename Field>
void AppendRanges(const IndexSet& set, int64_t begin, int64_t end, Field* field) {
  for (const auto& [from, to] : set.Within(begin, end)) {
    auto* const range = field->Add();
    range->set_begin(from);
    range->set_end(to);
  }
}

}  // namespace d2g::dataset

// A set of triple indices as a short list of ranges.
#pragma once

#include <cstdint>
#include <vector>

namespace d2g::dataset {

// Half-open: begin, begin + 1, ..., end - 1.
struct Range {
  int64_t begin = 0;
  int64_t end = 0;

  int64_t size() const { return end - begin; }
  friend bool operator==(const Range&, const Range&) = default;
};

// Ranges kept ascending, apart from each other and never empty. Not thread-safe; const members may
// be called together.
class IndexSet {
 public:
  IndexSet() = default;
  // Any order, overlaps allowed. Throws as Merge.
  explicit IndexSet(const std::vector<Range>& ranges);

  // Adds a range; an empty one changes nothing. Throws std::invalid_argument when begin < 0 or
  // end < begin. O(number of ranges).
  void Merge(Range range);

  int64_t count() const { return count_; }
  // The n-th smallest index. REQUIRES: 0 <= n < count(). O(number of ranges).
  int64_t Nth(int64_t n) const;
  bool Contains(int64_t index) const;
  const std::vector<Range>& ranges() const { return ranges_; }

 private:
  std::vector<Range> ranges_;
  int64_t count_ = 0;
};

}  // namespace d2g::dataset

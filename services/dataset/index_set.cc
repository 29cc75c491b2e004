#include "services/dataset/index_set.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace d2g::dataset {

IndexSet::IndexSet(const std::vector<Range>& ranges) {
  for (const Range& range : ranges) Merge(range);
}

void IndexSet::Merge(Range range) {
  if (range.begin < 0 || range.end < range.begin) {
    throw std::invalid_argument("index range [" + std::to_string(range.begin) + ", " +
                                std::to_string(range.end) + ") must have 0 <= begin <= end");
  }
  if (range.size() == 0) return;
  // [first, last) are the ranges that touch or overlap the new one.
  const auto first =
      std::lower_bound(ranges_.begin(), ranges_.end(), range.begin,
                       [](const Range& known, int64_t begin) { return known.end < begin; });
  auto last = first;
  count_ += range.size();
  Range merged = range;
  for (; last != ranges_.end() && last->begin <= range.end; ++last) {
    count_ -= last->size();
    merged = {std::min(merged.begin, last->begin), std::max(merged.end, last->end)};
  }
  count_ += merged.size() - range.size();
  ranges_.insert(ranges_.erase(first, last), merged);
}

int64_t IndexSet::Nth(int64_t n) const {
  for (const Range& range : ranges_) {
    if (n < range.size()) return range.begin + n;
    n -= range.size();
  }
  throw std::out_of_range("index set has " + std::to_string(count_) + " indices");
}

bool IndexSet::Contains(int64_t index) const {
  const auto after =
      std::upper_bound(ranges_.begin(), ranges_.end(), index,
                       [](int64_t value, const Range& known) { return value < known.begin; });
  return after != ranges_.begin() && index < std::prev(after)->end;
}

}  // namespace d2g::dataset

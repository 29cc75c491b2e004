#include "services/dataset/index_set.h"

#include <algorithm>
#include <iterator>
#include <stdexcept>
#include <string>

namespace d2g::dataset {

IndexSet::IndexSet(const std::vector<Range>& ranges) {
  for (const auto& [begin, end] : ranges) {
    if (begin < 0 || end < begin) {
      throw std::invalid_argument("index range [" + std::to_string(begin) + ", " +
                                  std::to_string(end) + ") must have 0 <= begin <= end");
    }
    Add(begin, end);
  }
}

int64_t IndexSet::Add(int64_t begin, int64_t end) {
  if (begin >= end) return 0;
  int64_t covered = 0;
  int64_t merged_begin = begin;
  int64_t merged_end = end;
  auto it = ranges_.upper_bound(begin);
  if (it != ranges_.begin() && std::prev(it)->second >= begin) --it;
  while (it != ranges_.end() && it->first <= end) {
    covered += std::max<int64_t>(0, std::min(end, it->second) - std::max(begin, it->first));
    merged_begin = std::min(merged_begin, it->first);
    merged_end = std::max(merged_end, it->second);
    it = ranges_.erase(it);
  }
  ranges_.emplace(merged_begin, merged_end);
  const int64_t added = end - begin - covered;
  size_ += added;
  return added;
}

int64_t IndexSet::Remove(int64_t begin, int64_t end) {
  if (begin >= end) return 0;
  int64_t removed = 0;
  auto it = ranges_.upper_bound(begin);
  if (it != ranges_.begin() && std::prev(it)->second > begin) --it;
  while (it != ranges_.end() && it->first < end) {
    const auto [from, to] = *it;
    it = ranges_.erase(it);
    removed += std::min(end, to) - std::max(begin, from);
    if (from < begin) ranges_.emplace(from, begin);
    if (to > end) ranges_.emplace(end, to);
  }
  size_ -= removed;
  return removed;
}

bool IndexSet::Contains(int64_t index) const { return FirstAbsent(index) != index; }

int64_t IndexSet::Count(int64_t begin, int64_t end) const {
  int64_t count = 0;
  for (const auto& [from, to] : Within(begin, end)) count += to - from;
  return count;
}

int64_t IndexSet::CountMultiples(int64_t begin, int64_t end, int64_t every) const {
  int64_t count = 0;
  for (const auto& [from, to] : Within(begin, end)) count += MultiplesIn(from, to, every);
  return count;
}

int64_t IndexSet::FirstAbsent(int64_t from) const {
  auto it = ranges_.upper_bound(from);
  if (it == ranges_.begin()) return from;
  --it;
  return std::max(from, it->second);
}

std::optional<int64_t> IndexSet::FirstPresent(int64_t from) const {
  auto it = ranges_.upper_bound(from);
  if (it != ranges_.begin() && std::prev(it)->second > from) return from;
  if (it == ranges_.end()) return std::nullopt;
  return it->first;
}

std::vector<std::pair<int64_t, int64_t>> IndexSet::Within(int64_t begin, int64_t end) const {
  std::vector<std::pair<int64_t, int64_t>> parts;
  auto it = ranges_.upper_bound(begin);
  if (it != ranges_.begin() && std::prev(it)->second > begin) --it;
  for (; it != ranges_.end() && it->first < end; ++it) {
    const int64_t from = std::max(begin, it->first);
    const int64_t to = std::min(end, it->second);
    if (from < to) parts.emplace_back(from, to);
  }
  return parts;
}

int64_t MultiplesIn(int64_t begin, int64_t end, int64_t every) {
  if (every <= 0 || begin >= end) return 0;
  // Multiples of `every` below n, for n >= 0.
  const auto below = [every](int64_t n) { return n <= 0 ? 0 : (n - 1) / every + 1; };
  return below(end) - below(begin);
}

}  // namespace d2g::dataset

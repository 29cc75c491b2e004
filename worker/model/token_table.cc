#include "worker/model/token_table.h"

#include <bit>
#include <functional>

namespace d2g::model {

namespace {

constexpr size_t kLeastSlots = 1024;

}  // namespace

size_t TokenTable::SlotOf(std::string_view text, size_t hash) const {
  const size_t mask = slots_.size() - 1;
  size_t slot = hash & mask;
  while (slots_[slot] >= 0 && (hashes_[slots_[slot]] != hash || Text(slots_[slot]) != text)) {
    slot = (slot + 1) & mask;
  }
  return slot;
}

void TokenTable::Grow() {
  slots_.assign(slots_.empty() ? kLeastSlots : slots_.size() * 2, -1);
  const size_t mask = slots_.size() - 1;
  for (size_t number = 0; number < hashes_.size(); ++number) {
    size_t slot = hashes_[number] & mask;
    while (slots_[slot] >= 0) slot = (slot + 1) & mask;
    slots_[slot] = static_cast<int32_t>(number);
  }
}

int32_t TokenTable::Intern(std::string_view text) {
  if (2 * (size() + 1) > slots_.size()) Grow();
  const size_t hash = std::hash<std::string_view>()(text);
  const size_t slot = SlotOf(text, hash);
  if (slots_[slot] < 0) {
    slots_[slot] = static_cast<int32_t>(size());
    characters_ += text;
    ends_.push_back(characters_.size());
    hashes_.push_back(hash);
  }
  return slots_[slot];
}

int32_t TokenTable::Find(std::string_view text) const {
  return slots_.empty() ? -1 : slots_[SlotOf(text, std::hash<std::string_view>()(text))];
}

std::string_view TokenTable::Text(int32_t number) const {
  const size_t begin = number == 0 ? 0 : ends_[number - 1];
  return std::string_view(characters_).substr(begin, ends_[number] - begin);
}

MergeTable::MergeTable(size_t capacity) {
  const size_t slots = std::bit_ceil(2 * capacity + 2);
  entries_.assign(slots, {kFree, {}});
  shift_ = 64 - std::countr_zero(slots);
}

void MergeTable::Set(int32_t first, int32_t second, Merge merge) {
  const uint64_t pair = Pair(first, second);
  size_t i = Slot(pair);
  while (entries_[i].pair != kFree && entries_[i].pair != pair) i = (i + 1) & (entries_.size() - 1);
  entries_[i] = {pair, merge};
}

}  // namespace d2g::model

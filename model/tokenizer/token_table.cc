#include "model/tokenizer/token_table.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <utility>

namespace d2g::model {

namespace {

constexpr size_t kLeastSlots = 1024;

uint32_t HashOf(std::string_view text) {
  return static_cast<uint32_t>(std::hash<std::string_view>()(text));
}

}  // namespace

size_t TokenTable::SlotOf(std::string_view text, uint32_t hash) const {
  const size_t mask = slots_.size() - 1;
  size_t i = hash & mask;
  while (slots_[i].number >= 0 && (slots_[i].hash != hash || Text(slots_[i].number) != text)) {
    i = (i + 1) & mask;
  }
  return i;
}

void TokenTable::Rehash(size_t slots) {
  const std::vector<Slot> old = std::exchange(slots_, std::vector<Slot>(slots));
  for (const Slot& slot : old) {
    if (slot.number < 0) continue;
    size_t i = slot.hash & (slots - 1);
    while (slots_[i].number >= 0) i = (i + 1) & (slots - 1);
    slots_[i] = slot;
  }
}

void TokenTable::Reserve(size_t count) {
  const size_t slots = std::bit_ceil(2 * count + kLeastSlots);
  if (slots > slots_.size()) Rehash(slots);
  ends_.reserve(count);
}

int32_t TokenTable::Intern(std::string_view text) {
  if (2 * (size() + 1) > slots_.size()) Rehash(std::max(kLeastSlots, 2 * slots_.size()));
  const uint32_t hash = HashOf(text);
  Slot& slot = slots_[SlotOf(text, hash)];
  if (slot.number < 0) {
    slot = {hash, static_cast<int32_t>(size())};
    characters_ += text;
    ends_.push_back(characters_.size());
  }
  return slot.number;
}

int32_t TokenTable::Find(std::string_view text) const {
  return slots_.empty() ? -1 : slots_[SlotOf(text, HashOf(text))].number;
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

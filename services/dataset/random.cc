#include "services/dataset/random.h"

namespace d2g::dataset {
namespace {

constexpr uint32_t kMultiplier0 = 0xD2511F53;
constexpr uint32_t kMultiplier1 = 0xCD9E8D57;
// Weyl constants that bump the key each round: golden ratio and sqrt(3) - 1.
constexpr uint32_t kWeyl0 = 0x9E3779B9;
constexpr uint32_t kWeyl1 = 0xBB67AE85;
constexpr int kRounds = 10;

constexpr uint32_t Low(uint64_t v) { return static_cast<uint32_t>(v); }
constexpr uint32_t High(uint64_t v) { return static_cast<uint32_t>(v >> 32); }

PhiloxBlock CounterOf(uint32_t block, Purpose purpose, uint64_t position) {
  return {block, static_cast<uint32_t>(purpose), Low(position), High(position)};
}

}  // namespace

PhiloxBlock Philox4x32(PhiloxBlock counter, uint64_t key) {
  uint32_t key0 = Low(key);
  uint32_t key1 = High(key);
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t product0 = static_cast<uint64_t>(kMultiplier0) * counter[0];
    const uint64_t product1 = static_cast<uint64_t>(kMultiplier1) * counter[2];
    counter = {High(product1) ^ counter[1] ^ key0, Low(product1),
               High(product0) ^ counter[3] ^ key1, Low(product0)};
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return counter;
}

uint64_t DeriveKey(uint64_t seed, Purpose purpose, uint64_t position) {
  // Block number 2^32 - 1 is never reached by a stream, so keys and streams do not overlap.
  const PhiloxBlock block = Philox4x32(CounterOf(0xFFFFFFFF, purpose, position), seed);
  return static_cast<uint64_t>(block[1]) << 32 | block[0];
}

Philox::Philox(uint64_t seed, Purpose purpose, uint64_t position)
    : key_(seed), counter_(CounterOf(0, purpose, position)) {}

uint32_t Philox::NextWord() {
  if (used_ == 4) {
    block_ = Philox4x32(counter_, key_);
    ++counter_[0];
    used_ = 0;
  }
  return block_[used_++];
}

uint32_t Philox::NextBelow(uint32_t n) {
  // Lemire, "Fast random integer generation in an interval" (2019).
  uint64_t product = static_cast<uint64_t>(NextWord()) * n;
  if (Low(product) < n) {
    const uint32_t threshold = (0u - n) % n;
    while (Low(product) < threshold) product = static_cast<uint64_t>(NextWord()) * n;
  }
  return High(product);
}

}  // namespace d2g::dataset

// Counter-based random numbers: a value is a pure function of (seed, purpose, position), so that
// any process can draw any number without drawing the ones before it, and no generator state is
// saved.
//
// Philox4x32-10 from Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3"
// (SC 2011). All functions are pure and thread-safe; they use integers only and give the same bits
// on every machine.
#pragma once

#include <array>
#include <cstdint>

namespace d2g::dataset {

// What a number is drawn for. Part of every counter, so that two uses of one seed never share
// numbers. The values are load-bearing: changing one changes every dataset and plan.
enum class Purpose : uint32_t {
  kNoise = 1,
  kOrder = 2,
  kNegatives = 3,
  kR1 = 4,
  kAugment = 5,
  kPrompts = 6,
  kBootstrap = 7,
};

using PhiloxBlock = std::array<uint32_t, 4>;

// The bare function: ten rounds over a 128-bit counter under a 64-bit key.
PhiloxBlock Philox4x32(PhiloxBlock counter, uint64_t key);

// An independent 64-bit key for position `position` of `purpose` under `seed`.
uint64_t DeriveKey(uint64_t seed, Purpose purpose, uint64_t position);

// The endless stream of 32-bit words that belongs to (seed, purpose, position). Cheap to make and
// to copy; not thread-safe. After 2^34 words the stream repeats.
class Philox {
 public:
  Philox(uint64_t seed, Purpose purpose, uint64_t position);

  // Uniform on [0, 2^32).
  uint32_t NextWord();
  // Uniform on [0, n), without modulo bias. REQUIRES: n >= 1.
  uint32_t NextBelow(uint32_t n);

 private:
  uint64_t key_;
  PhiloxBlock counter_;
  PhiloxBlock block_{};
  int used_ = 4;
};

}  // namespace d2g::dataset

#include "services/dataset/permutation.h"

#include <bit>
#include <stdexcept>
#include <string>

#include "services/dataset/random.h"

namespace d2g::dataset {
namespace {

constexpr uint32_t kRounds = 8;
constexpr int64_t kMaxSize = int64_t{1} << 62;

}  // namespace

FeistelPermutation::FeistelPermutation(int64_t n, uint64_t key) : n_(n), key_(key), half_bits_(1) {
  if (n < 1 || n > kMaxSize) {
    throw std::invalid_argument("permutation size is " + std::to_string(n) + "; must be 1 to 2^62");
  }
  const int bits = std::bit_width(static_cast<uint64_t>(n - 1));
  half_bits_ = bits < 2 ? 1 : (bits + 1) / 2;
}

uint64_t FeistelPermutation::Encrypt(uint64_t value) const {
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t left = value >> half_bits_;
  uint64_t right = value & mask;
  for (uint32_t round = 0; round < kRounds; ++round) {
    const PhiloxBlock mixed =
        Philox4x32({static_cast<uint32_t>(right), round, static_cast<uint32_t>(half_bits_),
                    static_cast<uint32_t>(Purpose::kOrder)},
                   key_);
    const uint64_t next = left ^ (mixed[0] & mask);
    left = right;
    right = next;
  }
  return left << half_bits_ | right;
}

int64_t FeistelPermutation::operator()(int64_t i) const {
  uint64_t value = static_cast<uint64_t>(i);
  do {
    value = Encrypt(value);
  } while (value >= static_cast<uint64_t>(n_));
  return static_cast<int64_t>(value);
}

}  // namespace d2g::dataset

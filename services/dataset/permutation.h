// A keyed shuffle of [0, n) that needs no memory: any position can be asked for by itself.
#pragma once

#include <cstdint>

namespace d2g::dataset {

// A bijection on [0, n) chosen by the key: a balanced Feistel network over the next power of four,
// walked until the value falls below n (fewer than four evaluations on average). Immutable,
// thread-safe, the same on every machine.
class FeistelPermutation {
 public:
  // Throws std::invalid_argument unless 1 <= n <= 2^62.
  FeistelPermutation(int64_t n, uint64_t key);

  // REQUIRES: 0 <= i < n.
  int64_t operator()(int64_t i) const;

  int64_t size() const { return n_; }

 private:
  uint64_t Encrypt(uint64_t value) const;

  int64_t n_;
  uint64_t key_;
  int half_bits_;
};

}  // namespace d2g::dataset

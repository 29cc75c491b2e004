#include "services/dataset/random.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

namespace d2g::dataset {
namespace {

// The three philox4x32-10 lines of kat_vectors in Random123, the authors' own library.
TEST(Philox, AgreesWithRandom123KnownAnswers) {
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, 0),
            (PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, 0xffffffffffffffff),
            (PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0x299f31d0a4093822),
            (PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, StreamsDifferBySeedPurposeAndPosition) {
  std::set<uint32_t> first_words;
  std::set<uint64_t> keys;
  for (const uint64_t seed : {0, 1}) {
    for (const Purpose purpose : {Purpose::kNoise, Purpose::kOrder, Purpose::kNegatives,
                                  Purpose::kR1, Purpose::kAugment, Purpose::kPrompts}) {
      for (const uint64_t position : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32}) {
        first_words.insert(Philox(seed, purpose, position).NextWord());
        keys.insert(DeriveKey(seed, purpose, position));
      }
    }
  }
  EXPECT_EQ(first_words.size(), 36u);
  EXPECT_EQ(keys.size(), 36u);
}

TEST(Philox, NextBelowIsUniform) {
  Philox random(7, Purpose::kOrder, 0);
  std::vector<int> counts(6);
  for (int i = 0; i < 60000; ++i) ++counts[random.NextBelow(6)];
  // Chi-squared with 5 degrees of freedom: 20.5 is passed by chance once in 1000 seeds.
  double chi_squared = 0;
  for (const int count : counts) chi_squared += (count - 10000.0) * (count - 10000.0) / 10000.0;
  EXPECT_LT(chi_squared, 20.5);
  EXPECT_EQ(Philox(7, Purpose::kOrder, 0).NextBelow(1), 0u);
}

}  // namespace
}  // namespace d2g::dataset

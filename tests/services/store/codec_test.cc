// Latent codec, keys and values, block state: pure functions.
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/dataset/latent_codec.h"
#include "services/store/block_state.h"
#include "services/store/engine.h"
#include "services/store/keys.h"
#include "tests/services/store/store_test_util.h"
#include "tests/testing/status_matchers.h"

namespace d2g::store {
namespace {

using ::d2g::testing::IsOk;
using ::d2g::testing::IsOkAndHolds;
using ::d2g::testing::StatusIs;
using ::testing::HasSubstr;
using testing::Range;
using testing::SmallRecipe;
using testing::TestTriple;
namespace v1 = d2g::common::v1;

std::vector<float> RoundTrip(const std::vector<float>& values, v1::DType dtype) {
  std::vector<float> out(values.size());
  EXPECT_THAT(dataset::DecodeLatent(dataset::EncodeLatent(values, dtype).value(), dtype, out),
              IsOk());
  return out;
}

TEST(LatentCodecTest, HalfRoundsToNearestEven) {
  const float inf = std::numeric_limits<float>::infinity();
  // Values and what IEEE half precision makes of them.
  const std::vector<std::pair<float, float>> cases = {
      {0.0F, 0.0F},
      {1.0F, 1.0F},
      {-2.5F, -2.5F},
      {65504.0F, 65504.0F},
      {65519.0F, 65504.0F},
      {65520.0F, inf},
      {1e30F, inf},
      {1.0F + 0x1p-11F, 1.0F},                // A tie goes to the even side,
      {1.0F + 3 * 0x1p-11F, 1.0F + 0x1p-9F},  // upwards here.
      {0x1p-24F, 0x1p-24F},                   // The smallest subnormal,
      {0x1p-25F, 0.0F},                       // half of it ties to zero,
      {1.5F * 0x1p-25F, 0x1p-24F},
      {0x1p-14F - 0x1p-26F, 0x1p-14F},  // The largest subnormals round to normal.
  };
  for (const auto& [value, expected] : cases) {
    EXPECT_EQ(RoundTrip({value, -value}, v1::DTYPE_FP16), (std::vector<float>{expected, -expected}))
        << value;
  }
  EXPECT_TRUE(std::isnan(RoundTrip({std::nanf("")}, v1::DTYPE_FP16)[0]));
}

TEST(LatentCodecTest, EveryHalfSurvives) {
  for (int bits = 0; bits < 65536; ++bits) {
    if ((bits & 0x7C00) == 0x7C00 && (bits & 0x3FF) != 0) continue;  // NaN
    const std::string bytes = {static_cast<char>(bits), static_cast<char>(bits >> 8)};
    float value = 0;
    ASSERT_THAT(dataset::DecodeLatent(bytes, v1::DTYPE_FP16, {&value, 1}), IsOk());
    ASSERT_EQ(dataset::EncodeLatent({&value, 1}, v1::DTYPE_FP16).value(), bytes) << bits;
  }
}

TEST(LatentCodecTest, BrainFloatAndSingle) {
  EXPECT_EQ(RoundTrip({1.0F + 0x1p-8F, 1.0F + 3 * 0x1p-8F}, v1::DTYPE_BF16),
            (std::vector<float>{1.0F, 1.0F + 0x1p-6F}));
  EXPECT_EQ(RoundTrip({1.2345678F}, v1::DTYPE_FP32), (std::vector<float>{1.2345678F}));
}

TEST(LatentCodecTest, FindsNonFiniteNumbers) {
  const float inf = std::numeric_limits<float>::infinity();
  for (const v1::DType dtype : {v1::DTYPE_FP16, v1::DTYPE_BF16, v1::DTYPE_FP32}) {
    const auto find = [dtype](const std::vector<float>& values) {
      return dataset::FindNonFinite(dataset::EncodeLatent(values, dtype).value(), dtype);
    };
    EXPECT_EQ(find({1, -2, 3}), -1);
    EXPECT_EQ(find({1, std::nanf(""), 3}), 1);
    EXPECT_EQ(find({1, 2, -inf}), 2);
  }
}

TEST(LatentCodecTest, WrongSizesAndTypesAreRefused) {
  std::vector<float> out(3);
  EXPECT_THAT(dataset::DecodeLatent("abcd", v1::DTYPE_FP16, out),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("6 bytes, not 4")));
  EXPECT_THAT(dataset::EncodeLatent(out, v1::DTYPE_UNSPECIFIED),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(KeysTest, RowKeysRoundTripAndSort) {
  const std::vector<RowKey> keys = {{RowKind::kBlock, 1, 0},
                                    {RowKind::kBlock, 1, 255},
                                    {RowKind::kBlock, 1, 256},
                                    {RowKind::kBlock, 2, 0},
                                    {RowKind::kChecksum, 1, 1LL << 40},
                                    {RowKind::kDataset, 7},
                                    {RowKind::kSeal, 3, 5},
                                    {RowKind::kStore}};
  std::string last;
  for (const RowKey& key : keys) {
    const std::string bytes = EncodeRowKey(key);
    EXPECT_LT(last, bytes);
    last = bytes;
    EXPECT_THAT(DecodeRowKey(bytes), IsOkAndHolds(key));
  }
}

TEST(KeysTest, BadRowKeysAreRefused) {
  for (const std::string& bad : {std::string(), std::string("X1234"), std::string("B12"),
                                 EncodeRowKey({RowKind::kBlock, 1, 2}) + "x"}) {
    EXPECT_THAT(DecodeRowKey(bad), StatusIs(absl::StatusCode::kDataLoss));
  }
}

TEST(KeysTest, PrefixEndIsTheNextKey) {
  EXPECT_EQ(PrefixEnd("ab"), "ac");
  EXPECT_EQ(PrefixEnd(std::string("a\xff")), "b");
  EXPECT_EQ(PrefixEnd(std::string("\xff")), "");
}

TEST(KeysTest, TripleKeysAndFamilies) {
  EXPECT_THAT(DecodeTripleKey(EncodeTripleKey(123456789)), IsOkAndHolds(123456789));
  EXPECT_LT(EncodeTripleKey(255), EncodeTripleKey(256));
  EXPECT_THAT(DecodeTripleKey("abc"), StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_EQ(ParseColumnFamilyName(ColumnFamilyName(12)), 12u);
  EXPECT_EQ(ParseColumnFamilyName("default"), 0u);
  EXPECT_EQ(ParseColumnFamilyName("dataset-x"), 0u);
}

TEST(KeysTest, ChecksumsRoundTrip) {
  EXPECT_THAT(DecodeChecksum(EncodeChecksum(0x0123456789abcdefULL)),
              IsOkAndHolds(0x0123456789abcdefULL));
  EXPECT_THAT(DecodeChecksum("short"), StatusIs(absl::StatusCode::kDataLoss));
}

TEST(TripleValueTest, RoundTrip) {
  const auto recipe = SmallRecipe();
  const auto triple = TestTriple(77, recipe);
  const std::string value = EncodeTripleHeader(triple, recipe) + triple.x();
  EXPECT_EQ(value.size(), kTripleHeaderBytes + 512);
  ASSERT_OK_AND_ASSIGN(const auto decoded, DecodeTriple(value, 77, recipe));
  EXPECT_EQ(decoded.SerializeAsString(), triple.SerializeAsString());
}

TEST(TripleValueTest, EveryFlippedBitIsFound) {
  const auto recipe = SmallRecipe();
  const auto triple = TestTriple(77, recipe);
  std::string value = EncodeTripleHeader(triple, recipe) + triple.x();
  for (size_t byte = 0; byte < value.size(); ++byte) {
    for (int bit = 0; bit < 8; ++bit) {
      value[byte] = static_cast<char>(value[byte] ^ (1 << bit));
      ASSERT_THAT(DecodeTriple(value, 77, recipe), StatusIs(absl::StatusCode::kDataLoss))
          << byte << " " << bit;
      value[byte] = static_cast<char>(value[byte] ^ (1 << bit));
    }
  }
  EXPECT_THAT(DecodeTriple(value.substr(0, 100), 77, recipe),
              StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_THAT(DecodeTriple(value.substr(0, 10), 77, recipe), StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_THAT(DecodeTriple(value, 78, recipe),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("belongs to index 77")));
}

TEST(SealDigestTest, IsAFixedFunction) {
  // XXH3-64 of sixteen zero bytes: a change here breaks every stored digest.
  EXPECT_EQ(SealDigest(0, 0), 0xd0a66a65c7528968ULL);
  EXPECT_NE(SealDigest(1, 0), SealDigest(0, 1));
}

TEST(BlockStateTest, RoundTripThroughRow) {
  BlockState state(128, 20);
  state.MarkPresent(128);
  state.MarkPresent(130);
  state.MarkPresent(147);
  state.MarkSealed(130, 5);
  state.MarkSealed(147, 7);
  state.RaiseEpoch(3);
  ASSERT_OK_AND_ASSIGN(const BlockState copy, BlockState::FromRow(128, 20, state.ToRow()));
  EXPECT_EQ(copy.present_count(), 3);
  EXPECT_EQ(copy.sealed_count(), 2);
  EXPECT_EQ(copy.sealed_digest(), 12u);
  EXPECT_EQ(copy.range_epoch(), 3);
  EXPECT_EQ(copy.Presence(Range(128, 132)), std::string("\x05", 1));
  EXPECT_THAT(BlockState::FromRow(128, 40, state.ToRow()), StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_THAT(BlockState::FromRow(128, 19, state.ToRow()), StatusIs(absl::StatusCode::kDataLoss));
}

TEST(BlockStateTest, SealedRangesAndAbsence) {
  BlockState state(0, 16);
  for (const int64_t index : {1, 2, 3, 7, 15}) {
    state.MarkPresent(index);
    state.MarkSealed(index, 1);
  }
  const auto ranges = state.SealedRanges();
  ASSERT_EQ(ranges.size(), 3u);
  EXPECT_EQ(ranges[0].begin(), 1);
  EXPECT_EQ(ranges[0].end(), 4);
  EXPECT_EQ(ranges[2].end(), 16);
  state.MarkAbsent(2, 1);
  EXPECT_EQ(state.sealed_digest(), 4u);
  EXPECT_FALSE(state.IsPresent(2));
  EXPECT_EQ(state.SealedRanges().size(), 4u);
}

}  // namespace
}  // namespace d2g::store

#include "worker/rank/text_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include "model/files/error.h"

namespace d2g::rank {
namespace {

using ::testing::ElementsAre;

class TextCacheTest : public ::testing::Test {
 protected:
  // [n, 2, 3] fp32, 24 bytes a prompt: the number of letters everywhere.
  TextCache Make(int64_t max_bytes) {
    return TextCache(
        [this](const std::vector<std::string>& prompts) {
          encoded_.insert(encoded_.end(), prompts.begin(), prompts.end());
          return at::full({1, 2, 3}, static_cast<double>(prompts[0].size()));
        },
        {"a", "bb", "ccc", "bb"}, max_bytes);
  }

  std::vector<std::string> encoded_;
};

TEST_F(TextCacheTest, EncodesEachTextOnce) {
  TextCache cache = Make(1000);
  const at::Tensor embeddings = cache.Embeddings({1, 0, 3, 1});
  EXPECT_EQ(embeddings.sizes(), (std::vector<int64_t>{4, 2, 3}));
  EXPECT_THAT(encoded_, ElementsAre("bb", "a"));
  for (const auto& [row, letters] : {std::pair{0, 2}, {1, 1}, {2, 2}, {3, 2}}) {
    EXPECT_TRUE(embeddings[row].eq(letters).all().item<bool>());
  }
  EXPECT_EQ(cache.misses(), 2);
  EXPECT_EQ(cache.hits(), 2);
}

TEST_F(TextCacheTest, DropsTheLeastRecentlyUsed) {
  TextCache cache = Make(2 * 24);
  cache.Embeddings({0});
  cache.Embeddings({1});
  cache.Embeddings({0});
  cache.Embeddings({2});  // Drops 1.
  EXPECT_EQ(cache.bytes(), 48);
  cache.Embeddings({0});
  cache.Embeddings({1});
  EXPECT_THAT(encoded_, ElementsAre("a", "bb", "ccc", "bb"));
}

TEST_F(TextCacheTest, WorksWithLessRoomThanOnePrompt) {
  TextCache cache = Make(1);
  EXPECT_EQ(cache.Embeddings({0, 1, 2}).size(0), 3);
}

TEST_F(TextCacheTest, EqualTextsAreOneClass) {
  const TextCache cache = Make(1000);
  EXPECT_EQ(cache.ClassOf(1), cache.ClassOf(3));
  EXPECT_NE(cache.ClassOf(0), cache.ClassOf(1));
}

TEST_F(TextCacheTest, RefusesPositionsOutsideTheList) {
  TextCache cache = Make(1000);
  EXPECT_THROW(cache.Embeddings({4}), model::Error);
  EXPECT_THROW(cache.Embeddings({-1}), model::Error);
}

}  // namespace
}  // namespace d2g::rank

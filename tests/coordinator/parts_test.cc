// The small parts: interval sets, keys, ids, page tokens, rates, and the committer.
#include <set>

#include "absl/synchronization/notification.h"
#include "coordinator/decider/committer.h"
#include "coordinator/rows/row_keys.h"
#include "coordinator/spec/dataset_id.h"
#include "coordinator/state/dataset_state.h"
#include "coordinator/state/page_token.h"
#include "coordinator/state/rate_meter.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/dataset/index_set.h"
#include "tests/testing/status_matchers.h"

namespace d2g::coordinator {
namespace {

using ::d2g::testing::IsOk;
using ::d2g::testing::IsOkAndHolds;
using ::d2g::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

common::v1::DatasetRecipe Recipe() {
  common::v1::DatasetRecipe recipe;
  recipe.set_teacher_digest("xxh3-128:00000000000000000000000000000001");
  recipe.set_prompts_digest("xxh3-128:00000000000000000000000000000002");
  recipe.set_prompt_count(10);
  recipe.mutable_solver()->set_kind("ddim");
  recipe.mutable_solver()->set_steps(50);
  recipe.mutable_solver()->set_guidance(3);
  recipe.set_latent_channels(4);
  recipe.set_latent_height(8);
  recipe.set_latent_width(8);
  recipe.set_storage_dtype(common::v1::DTYPE_FP16);
  recipe.set_seed(7);
  recipe.set_block_size(16);
  recipe.set_holdout_every(8);
  recipe.set_shard_count(2);
  return recipe;
}

// The ids name folders and column families of running clusters: they must never change.
TEST(DatasetIdTest, IsGolden) { EXPECT_EQ(DatasetId(Recipe()), "f8c31bcaf7b80e17"); }

TEST(DatasetIdTest, DependsOnEveryField) {
  std::set<std::string> ids = {DatasetId(Recipe())};
  const auto add = [&](auto change) {
    auto recipe = Recipe();
    change(recipe);
    ids.insert(DatasetId(recipe));
  };
  add([](auto& r) { r.set_seed(8); });
  add([](auto& r) { r.mutable_solver()->set_guidance(3.5); });
  add([](auto& r) { r.mutable_solver()->set_steps(49); });
  add([](auto& r) { r.set_block_size(32); });
  add([](auto& r) { r.set_shard_count(3); });
  add([](auto& r) { r.set_holdout_every(9); });
  add([](auto& r) { r.set_storage_dtype(common::v1::DTYPE_FP32); });
  EXPECT_EQ(ids.size(), 8u);
}

common::v1::IndexRange Range(int64_t begin, int64_t end) {
  common::v1::IndexRange range;
  range.set_begin(begin);
  range.set_end(end);
  return range;
}

DatasetState::Fit TakeAll(DatasetState::Range range) { return {range.second, true}; }

TEST(DatasetStateTest, OpenRangesStayInsideBlocksAndAvoidSealedAndLeased) {
  DatasetState dataset(Recipe());
  const auto all = [](int32_t) { return true; };
  EXPECT_EQ(dataset.FindOpen(40, 100, all, TakeAll), std::make_pair(int64_t{0}, int64_t{16}));
  dataset.Lease(0, 16);
  EXPECT_EQ(dataset.FindOpen(40, 10, all, TakeAll), std::make_pair(int64_t{16}, int64_t{26}));
  ASSERT_THAT(dataset.MergeSeal(Range(16, 20), 1), IsOkAndHolds(4));
  ASSERT_THAT(dataset.MergeSeal(Range(24, 32), 1), IsOkAndHolds(8));
  EXPECT_EQ(dataset.FindOpen(40, 10, all, TakeAll), std::make_pair(int64_t{20}, int64_t{24}));
  dataset.Lease(20, 24);
  EXPECT_EQ(dataset.FindOpen(40, 10, all, TakeAll), std::make_pair(int64_t{32}, int64_t{40}))
      << "the limit is inside a block";
  dataset.Lease(32, 40);
  EXPECT_EQ(dataset.FindOpen(40, 10, all, TakeAll), std::nullopt);
  dataset.Release(0, 16);
  EXPECT_EQ(dataset.FindOpen(40, 10, all, TakeAll), std::make_pair(int64_t{0}, int64_t{10}));
}

TEST(DatasetStateTest, SkipsShardsThatAreDown) {
  DatasetState dataset(Recipe());
  const auto second = [](int32_t shard) { return shard == 1; };
  EXPECT_EQ(dataset.FindOpen(64, 16, second, TakeAll), std::make_pair(int64_t{16}, int64_t{32}));
  dataset.Lease(16, 32);
  EXPECT_EQ(dataset.FindOpen(64, 16, second, TakeAll), std::make_pair(int64_t{48}, int64_t{64}));
}

TEST(DatasetStateTest, DigestFollowsSealsInAnyOrder) {
  DatasetState dataset(Recipe());
  ASSERT_THAT(dataset.MergeSeal(Range(8, 16), 100), IsOk());
  ASSERT_THAT(dataset.MergeSeal(Range(0, 8), 11), IsOk());
  EXPECT_TRUE(dataset.Agrees(0, 16, 111));
  EXPECT_TRUE(dataset.Agrees(1, 0, 0));
  ASSERT_THAT(dataset.MergeSeal(Range(8, 16), 100), IsOkAndHolds(0)) << "a repeat";
  EXPECT_TRUE(dataset.Agrees(0, 16, 111));
  ASSERT_THAT(dataset.MergeSeal(Range(32, 36), 1), IsOk());
  ASSERT_THAT(dataset.MergeSeal(Range(32, 48), 5), IsOkAndHolds(12)) << "partly known";
  EXPECT_FALSE(dataset.Agrees(0, 32, 117)) << "the digest cannot be known";
}

TEST(DatasetStateTest, TheShardsListReplacesWhatWasKnown) {
  DatasetState dataset(Recipe());
  ASSERT_THAT(dataset.MergeSeal(Range(0, 16), 1), IsOk());
  ASSERT_THAT(dataset.MergeSeal(Range(16, 32), 1), IsOk());
  DatasetState::Ranges ranges;
  *ranges.Add() = Range(4, 8);
  *ranges.Add() = Range(32, 40);
  dataset.ForgetRecent(0);
  ASSERT_THAT(dataset.ReplaceShard(0, ranges, 12, 9), IsOk());
  EXPECT_THAT(dataset.sealed().ranges(), ElementsAre(Pair(4, 8), Pair(16, 40)));
  EXPECT_TRUE(dataset.Agrees(0, 12, 9));
}

TEST(DatasetStateTest, AListThatIsOlderThanASealDoesNotTakeItBack) {
  DatasetState dataset(Recipe());
  ASSERT_THAT(dataset.MergeSeal(Range(0, 4), 1), IsOk());
  dataset.ForgetRecent(0);  // the heartbeat that asks for the list is answered
  ASSERT_THAT(dataset.MergeSeal(Range(8, 12), 1), IsOk());
  DatasetState::Ranges ranges;
  *ranges.Add() = Range(0, 4);  // made before [8, 12) was sealed
  ASSERT_THAT(dataset.ReplaceShard(0, ranges, 4, 1), IsOk());
  EXPECT_THAT(dataset.sealed().ranges(), ElementsAre(Pair(0, 4), Pair(8, 12)));
  EXPECT_FALSE(dataset.Agrees(0, 8, 2)) << "so that the next heartbeat asks again";
  dataset.ForgetRecent(0);
  *ranges.Add() = Range(8, 12);
  ASSERT_THAT(dataset.ReplaceShard(0, ranges, 8, 2), IsOk());
  EXPECT_TRUE(dataset.Agrees(0, 8, 2));
}

TEST(DatasetStateTest, RefusesListsThatCannotBe) {
  DatasetState dataset(Recipe());
  const auto replace = [&](std::vector<common::v1::IndexRange> list, int64_t count) {
    DatasetState::Ranges ranges;
    for (const auto& range : list) *ranges.Add() = range;
    return dataset.ReplaceShard(0, ranges, count, 0);
  };
  using absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(replace({Range(0, 4)}, 5), StatusIs(kInvalidArgument, HasSubstr("hold 4")));
  EXPECT_THAT(replace({Range(16, 20)}, 4), StatusIs(kInvalidArgument, HasSubstr("shard 0")));
  EXPECT_THAT(replace({Range(0, 20)}, 20), StatusIs(kInvalidArgument));
  EXPECT_THAT(replace({Range(4, 8), Range(0, 2)}, 6), StatusIs(kInvalidArgument));
  EXPECT_THAT(replace({Range(3, 3)}, 0), StatusIs(kInvalidArgument));
  EXPECT_THAT(dataset.MergeSeal(Range(8, 24), 0), StatusIs(kInvalidArgument, HasSubstr("[8, 24)")));
  EXPECT_THAT(dataset.MergeSeal(Range(-1, 4), 0), StatusIs(kInvalidArgument));
  EXPECT_TRUE(dataset.sealed().empty());
}

TEST(RowKeysTest, NamesRoundTrip) {
  EXPECT_THAT(ParseJobName(JobName("abc-1")), IsOkAndHolds("abc-1"));
  EXPECT_THAT(ParseDatasetName(DatasetName("00ff")), IsOkAndHolds("00ff"));
  ASSERT_OK_AND_ASSIGN(const auto task, ParseTaskName(TaskName("j", 12)));
  EXPECT_EQ(task.job, "j");
  EXPECT_EQ(task.task, 12);
  const auto child = ParseChildId(ChildId("parent", 7));
  ASSERT_TRUE(child.has_value());
  EXPECT_EQ(child->parent, "parent");
  EXPECT_EQ(child->number, 7);
  EXPECT_LT(ChildId("j", 9), ChildId("j", 10)) << "rows sort by number";
  for (const char* bad : {"", "jobs/", "job/x", "jobs/X", "jobs/a/b", "jobs/../x"}) {
    EXPECT_THAT(ParseJobName(bad), StatusIs(absl::StatusCode::kInvalidArgument)) << bad;
  }
  for (const char* bad : {"jobs/a/tasks/", "jobs/a/tasks/-1", "jobs/a/tasks/x", "jobs//tasks/1"}) {
    EXPECT_THAT(ParseTaskName(bad), StatusIs(absl::StatusCode::kInvalidArgument)) << bad;
  }
}

TEST(PageTokenTest, TokensBelongToTheirListing) {
  EXPECT_THAT(DecodePageToken("jobs", EncodePageToken("jobs", "00:7")), IsOkAndHolds("00:7"));
  EXPECT_THAT(DecodePageToken("jobs", ""), IsOkAndHolds(""));
  EXPECT_THAT(DecodePageToken("jobs", EncodePageToken("tasks", "7")),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("page_token")));
  EXPECT_THAT(DecodePageToken("jobs", "!!"), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(PageSize(0), IsOkAndHolds(50));
  EXPECT_THAT(PageSize(5000), IsOkAndHolds(1000));
  EXPECT_THAT(PageSize(-1), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("-1")));
}

TEST(RateMeterTest, BeginsWithTheFirstGrowth) {
  RateMeter meter(absl::Seconds(30));
  // A start of 25 s, then a step each 2 s.
  for (int s = 0; s < 25; ++s) meter.Sample(absl::Seconds(s), 0);
  for (int s = 25; s <= 33; s += 2) {
    meter.Sample(absl::Seconds(s), 1 + (s - 25) / 2);
    if (s == 25) {
      EXPECT_EQ(meter.Rate(), 0) << "one step tells nothing";
    } else {
      EXPECT_NEAR(meter.Rate(), 0.5, 0.01) << s;
    }
  }
  meter.Reset();
  EXPECT_EQ(meter.Rate(), 0);
  meter.Sample(absl::Seconds(60), 5);
  meter.Sample(absl::Seconds(62), 6);
  meter.Sample(absl::Seconds(64), 7);
  EXPECT_NEAR(meter.Rate(), 0.5, 0.01);
}

TEST(RateMeterTest, MeasuresTheWindowOnly) {
  RateMeter meter(absl::Seconds(30));
  EXPECT_EQ(meter.Rate(), 0);
  // 10 a second for a minute, then 2 a second for a minute.
  int64_t value = 0;
  for (int s = 0; s <= 60; ++s) meter.Sample(absl::Seconds(s), value += 10);
  EXPECT_NEAR(meter.Rate(), 10, 0.01);
  for (int s = 61; s <= 120; ++s) meter.Sample(absl::Seconds(s), value += 2);
  EXPECT_NEAR(meter.Rate(), 2, 0.3);
  // Standing still brings it down to nothing.
  for (int s = 121; s <= 160; ++s) meter.Sample(absl::Seconds(s), value);
  EXPECT_EQ(meter.Rate(), 0);
  // Lost work starts anew instead of showing a negative rate.
  meter.Sample(absl::Seconds(161), value - 100);
  EXPECT_EQ(meter.Rate(), 0);
}

TEST(CommitterTest, DecisionsThatWaitShareOneWrite) {
  absl::Notification first_started;
  absl::Notification go_on;
  std::vector<size_t> groups;  // written by the committer's thread, read after it was joined
  {
    Committer committer({.write = [&](const std::vector<RowChanges>& written) {
      groups.push_back(written.size());
      if (groups.size() == 1) {
        first_started.Notify();
        go_on.WaitForNotification();
      }
      return absl::OkStatus();
    }});
    const int64_t first = committer.Enqueue({{"a", "1"}});
    first_started.WaitForNotification();
    bool done = false;
    committer.WhenDurable(first, [&](const absl::Status&) { done = true; });
    EXPECT_FALSE(done) << "told before it was durable";
    int64_t last = 0;
    for (int i = 0; i < 9; ++i) last = committer.Enqueue({{"b", "2"}});
    go_on.Notify();
    EXPECT_THAT(committer.WaitDurable(last), IsOk());
    EXPECT_TRUE(done);
    EXPECT_THAT(committer.WaitDurable(0), IsOk()) << "nothing to wait for";
  }
  EXPECT_THAT(groups, ElementsAre(1, 9));
}

TEST(CommitterTest, AFailedWriteIsFinal) {
  int failures = 0;
  int writes = 0;
  {
    Committer committer({.write =
                             [&](const std::vector<RowChanges>&) {
                               ++writes;
                               return absl::ResourceExhaustedError("disk is full");
                             },
                         .on_failure = [&](const absl::Status&) { ++failures; }});
    EXPECT_THAT(committer.WaitDurable(committer.Enqueue({{"a", "1"}})),
                StatusIs(absl::StatusCode::kUnavailable, HasSubstr("disk is full")));
    EXPECT_THAT(committer.WaitDurable(committer.Enqueue({{"b", "1"}})),
                StatusIs(absl::StatusCode::kUnavailable));
    EXPECT_THAT(committer.WaitDurable(0), StatusIs(absl::StatusCode::kUnavailable))
        << "reads must not rest on what was lost";
    EXPECT_FALSE(committer.status().ok());
  }
  EXPECT_EQ(writes, 1) << "never write again after a failure";
  EXPECT_EQ(failures, 1);
}

}  // namespace
}  // namespace d2g::coordinator

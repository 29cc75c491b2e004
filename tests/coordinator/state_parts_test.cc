// The parts of the state keep counts and orders where they could look at each row. Here random work
// is done on each part, and what it says is compared with what a look at each row says.
#include <algorithm>
#include <random>
#include <ranges>
#include <set>

#include "absl/strings/str_cat.h"
#include "coordinator/rows/limits.h"
#include "coordinator/state/dataset_state.h"
#include "coordinator/state/jobs.h"
#include "coordinator/state/lease_table.h"
#include "coordinator/state/page_token.h"
#include "coordinator/state/task_failures.h"
#include "coordinator/state/workers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace d2g::coordinator {
namespace {

using ::d2g::testing::IsOk;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr uint32_t kSeeds = 20;

// Draws of one seed.
class Draw {
 public:
  explicit Draw(uint32_t seed) : random_(seed) {}
  // From 0 to below `count`.
  int64_t Below(int64_t count) {
    return static_cast<int64_t>(random_() % static_cast<uint64_t>(count));
  }
  bool Chance(int percent) { return Below(100) < percent; }

 private:
  std::mt19937 random_;
};

TEST(TableTest, ChildrenAreThoseOfOneParentInTheOrderOfTheirNumbers) {
  Table<rows::v1::SnapshotRow> table("snapshot/");
  for (const char* parent : {"a", "a-", "a0", "aa", "Z"}) {
    for (const int64_t number : {10, 9, 2}) table.Mutable(ChildId(parent, number));
  }
  std::vector<std::string> ids;
  for (const auto& [id, row] : table.Children("a")) ids.push_back(id);
  EXPECT_THAT(ids, ElementsAre(ChildId("a", 2), ChildId("a", 9), ChildId("a", 10)));
  ids.clear();
  for (const auto& [id, row] : table.Children("a") | std::views::reverse) ids.push_back(id);
  EXPECT_THAT(ids, ElementsAre(ChildId("a", 10), ChildId("a", 9), ChildId("a", 2)));
  EXPECT_TRUE(table.Children("b").empty());
  table.EraseChildren("a");
  EXPECT_TRUE(table.Children("a").empty());
  EXPECT_THAT(table.rows(), SizeIs(12)) << "the other parents' are there";
}

TEST(PageTest, SaysWhereTheNextPageBeginsOnlyWhereThereIsOne) {
  ASSERT_OK_AND_ASSIGN(Page page, Page::Begin("jobs", 2, ""));
  EXPECT_TRUE(page.Take("1"));
  EXPECT_TRUE(page.Take("2"));
  EXPECT_EQ(page.next_token(), "");
  EXPECT_FALSE(page.Take("3"));
  ASSERT_OK_AND_ASSIGN(const Page next, Page::Begin("jobs", 2, page.next_token()));
  EXPECT_EQ(next.after(), "2");
}

v1::WorkerInfo WorkerOnNode(int64_t number, int64_t node, bool gpu) {
  v1::WorkerInfo info;
  info.set_id(absl::StrCat("w", number));
  info.set_node(absl::StrCat("n", node));
  info.set_device(gpu ? "cuda:0" : "cpu");
  return info;
}

TEST(WorkersTest, WhatIsOfferedIsWhatALookAtEachWorkerFinds) {
  struct Seen {
    Worker worker;
    absl::Duration at;
  };
  constexpr absl::Duration kMemory = absl::Seconds(50);
  for (uint32_t seed = 1; seed <= kSeeds; ++seed) {
    SCOPED_TRACE(seed);
    Draw draw(seed);
    Workers workers(kMemory);
    std::map<std::string, Seen> model;
    absl::Duration now = absl::Seconds(1000);
    for (int i = 0; i < 400; ++i) {
      now += absl::Milliseconds(draw.Chance(3) ? 20'000 : draw.Below(800));
      workers.NoteTime(now);
      std::erase_if(model, [&](const auto& entry) { return now - entry.second.at > kMemory; });
      const v1::WorkerInfo info = WorkerOnNode(draw.Below(8), draw.Below(3), draw.Chance(30));
      Seen& seen = model[info.id()];
      if (draw.Chance(40)) {
        std::set<int> kinds;
        for (const TaskKindFacts& facts : kTaskKinds) {
          if (draw.Chance(40)) kinds.insert(facts.kind);
        }
        seen.worker.kinds = kinds;
        EXPECT_EQ(workers.See(info, kinds, now).kinds, kinds);
      } else {
        const int kind = kTaskKinds[static_cast<size_t>(draw.Below(3))].kind;
        seen.worker.kinds.insert(kind);
        workers.SeeAtWork(info, kind, now);
      }
      seen.worker.node = info.node();
      seen.worker.has_gpu = info.device() != "cpu";
      seen.at = now;
      if (draw.Chance(2)) {
        workers.Grace(now);
        for (auto& [id, entry] : model) entry.at = now;
      }
      int64_t live = 0;
      bool gpu = false;
      for (const auto& [id, entry] : model) {
        if (now - entry.at > kWorkerTimeout) continue;
        ++live;
        gpu |= entry.worker.has_gpu && entry.worker.kinds.contains(v1::TASK_KIND_SIMULATE);
      }
      ASSERT_EQ(workers.live_count(), live);
      ASSERT_EQ(workers.GpuSimulates(), gpu);
      for (const std::set<std::string>& nodes :
           {std::set<std::string>{}, {"n0"}, {"n1", "n2"}, {"n0", "n1", "n2"}}) {
        for (const TaskKindFacts& facts : kTaskKinds) {
          const bool offered = std::any_of(model.begin(), model.end(), [&](const auto& entry) {
            const auto& [worker, at] = entry.second;
            return worker.kinds.contains(facts.kind) && !nodes.contains(worker.node) &&
                   now - at <= kWorkerTimeout;
          });
          ASSERT_EQ(workers.Offered(facts.kind, nodes), offered) << facts.verb;
        }
      }
    }
  }
}

// Leases of two jobs on one dataset, [10 n, 10 n + 10) where they are of ranges.
class LeaseTableTest : public ::testing::Test {
 protected:
  static constexpr absl::Duration kDuration = absl::Seconds(10);

  rows::v1::LeaseRow Row(Draw& draw, const LeaseTable& table) {
    rows::v1::LeaseRow row;
    row.set_job(draw.Chance(50) ? "a" : "b");
    row.set_task(draw.Below(100));
    row.set_dataset("d");
    row.mutable_worker()->set_id(absl::StrCat("w", draw.Below(5)));
    row.set_kind(kTaskKinds[static_cast<size_t>(draw.Below(3))].kind);
    if (row.kind() != v1::TASK_KIND_SIMULATE) return row;
    std::set<int64_t> taken;
    for (const auto& [id, lease] : table.live()) taken.insert(lease.row->range().begin());
    int64_t begin = 0;
    while (taken.contains(begin) || draw.Chance(30)) begin += 10;
    row.mutable_range()->set_begin(begin);
    row.mutable_range()->set_end(begin + 10);
    return row;
  }

  void Compare(const LeaseTable& table, absl::Duration now) {
    std::map<std::pair<std::string, int>, std::set<int64_t>> of;
    std::map<int, int64_t> count;
    std::set<int64_t> lapsed;
    for (const auto& [id, lease] : table.live()) {
      ASSERT_EQ(table.Find(id), lease.row);
      of[{lease.row->job(), lease.row->kind()}].insert(id);
      ++count[lease.row->kind()];
      if (now >= lease.deadline) lapsed.insert(id);
    }
    const std::vector<int64_t> told = table.Lapsed(now);
    ASSERT_EQ(std::set<int64_t>(told.begin(), told.end()), lapsed);
    for (const TaskKindFacts& facts : kTaskKinds) {
      ASSERT_EQ(table.CountOf(facts.kind), count[facts.kind]);
      for (const char* job : {"a", "b"}) {
        const std::set<int64_t>& ids = of[{job, facts.kind}];
        ASSERT_EQ(table.OfJob(job, facts.kind), ids);
        ASSERT_EQ(table.First(job, facts.kind), ids.empty() ? nullptr : table.Find(*ids.begin()));
      }
    }
    for (const int64_t limit : {0, 10, 15, 33, 70, 10'000}) {
      int64_t done = 0;
      for (const auto& [id, lease] : table.live()) {
        const auto& range = lease.row->range();
        if (lease.row->kind() != v1::TASK_KIND_SIMULATE || range.begin() >= limit) continue;
        done += std::clamp<int64_t>(lease.reported.done, 0,
                                    std::min(limit, range.end()) - range.begin());
      }
      ASSERT_EQ(table.DoneBelow("d", limit), done) << limit;
    }
  }
};

TEST_F(LeaseTableTest, WhatItSaysIsWhatALookAtEachLeaseFinds) {
  for (uint32_t seed = 1; seed <= kSeeds; ++seed) {
    SCOPED_TRACE(seed);
    Draw draw(seed);
    absl::Duration now = absl::Seconds(1000);
    LeaseTable table(kDuration, seed, Table<rows::v1::LeaseRow>("lease/"), now);
    std::vector<int64_t> ids;
    for (int i = 0; i < 300; ++i) {
      now += absl::Milliseconds(draw.Below(1000));
      const int64_t what = draw.Below(100);
      if (ids.empty() || what < 30) {
        ids.push_back(table.Grant(Row(draw, table), now));
        EXPECT_EQ(table.Unreported(table.Find(ids.back())->worker().id()), table.Find(ids.back()));
      } else if (what < 70) {
        v1::HeartbeatTaskRequest report;
        report.set_lease_id(ids[static_cast<size_t>(draw.Below(static_cast<int64_t>(ids.size())))]);
        report.set_progress(draw.Below(20));
        report.set_done(draw.Below(14) - 2);
        ASSERT_TRUE(table.Renew(report, now));
        const auto* unreported = table.Unreported(table.Find(report.lease_id())->worker().id());
        EXPECT_NE(unreported, table.Find(report.lease_id()));
      } else if (what < 95) {
        const auto at = ids.begin() + draw.Below(static_cast<int64_t>(ids.size()));
        table.Erase(*at);
        EXPECT_EQ(table.Find(*at), nullptr);
        ids.erase(at);
      } else {
        table.Grace(now);
      }
      Compare(table, now);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(TaskFailuresTest, WhatItSaysIsWhatALookAtEachRowFinds) {
  for (uint32_t seed = 1; seed <= kSeeds; ++seed) {
    SCOPED_TRACE(seed);
    Draw draw(seed);
    TaskFailures failures(Table<rows::v1::FailureRow>("failure/"));
    const absl::Duration now = absl::Seconds(1000);
    for (int i = 0; i < 300; ++i) {
      // Task n is the range [10 n, 10 n + 10), or a part of it once that has failed; task 100 and
      // those after it are exports.
      rows::v1::LeaseRow lease;
      lease.set_job(draw.Chance(70) ? "a" : "a-");
      const bool simulate = draw.Chance(80);
      lease.set_task(simulate ? draw.Below(8) : 100 + draw.Below(2));
      lease.set_kind(simulate ? v1::TASK_KIND_SIMULATE : v1::TASK_KIND_EXPORT);
      if (simulate) {
        lease.mutable_range()->set_begin(10 * lease.task() + draw.Below(5));
        lease.mutable_range()->set_end(10 * lease.task() + 10);
      }
      const int64_t what = draw.Below(100);
      if (what < 25) {
        failures.NoteLapse(lease, "lapsed");
      } else if (what < 50) {
        failures.NoteStoreFailure(lease, "no store", !simulate, now);
      } else if (what < 75) {
        EXPECT_EQ(failures.NoteFailure(lease, "broke", "node n: broke", now).span,
                  absl::ZeroDuration());
      } else if (what < 95) {
        dataset::IndexSet sealed;
        const int64_t begin = draw.Below(90);
        sealed.Add(begin, begin + draw.Below(40));
        std::set<int64_t> gone;
        size_t rows = 0;
        for (const auto& [id, row] : failures.OfJob("a")) {
          ++rows;
          const auto& range = row.range();
          if (row.kind() == v1::TASK_KIND_SIMULATE &&
              sealed.Count(range.begin(), range.end()) == range.end() - range.begin()) {
            gone.insert(row.task());
          }
        }
        if (!sealed.empty()) {
          const auto [from, to] = *sealed.ranges().begin();
          failures.ForgetSealed("a", sealed, from, to);
        }
        size_t left = 0;
        for (const auto& [id, row] : failures.OfJob("a")) {
          ++left;
          EXPECT_FALSE(gone.contains(row.task())) << id;
        }
        EXPECT_EQ(left, rows - gone.size()) << "and nothing else";
      } else {
        failures.ForgetKind("a", v1::TASK_KIND_EXPORT);
        EXPECT_THAT(failures.OfKind("a", v1::TASK_KIND_EXPORT), IsEmpty());
      }
      for (const char* job : {"a", "a-", "b"}) {
        const rows::v1::FailureRow* counted = nullptr;
        const rows::v1::FailureRow* stalled = nullptr;
        const rows::v1::FailureRow* starved = nullptr;
        const auto waits = [](const rows::v1::FailureRow& row) { return row.task() % 2 == 1; };
        for (const auto& [id, row] : failures.OfJob(job)) {
          if (row.reasons_size() > 0 && counted == nullptr) counted = &row;
          if (row.reasons_size() == 0 && row.store_failures() > 0 && starved == nullptr &&
              waits(row)) {
            starved = &row;
          }
          if (row.lapses() >= TaskFailures::kManyLapses && stalled == nullptr) stalled = &row;
        }
        ASSERT_EQ(failures.FirstCounted(job), counted);
        ASSERT_EQ(failures.FirstStalled(job), stalled);
        ASSERT_EQ(failures.FirstStarved(job, waits), starved);
        for (int64_t index = 0; index < 90; index += 3) {
          const rows::v1::FailureRow* at = nullptr;
          std::optional<int64_t> next;
          for (const auto& [id, row] : failures.OfJob(job)) {
            if (row.kind() != v1::TASK_KIND_SIMULATE) continue;
            const auto& range = row.range();
            if (range.begin() <= index && index < range.end()) at = &row;
            if (range.begin() > index) next = std::min(next.value_or(range.begin()), range.begin());
          }
          ASSERT_EQ(failures.At(job, index), at) << index;
          ASSERT_EQ(failures.NextBegin(job, index), next) << index;
        }
      }
    }
    failures.ForgetJob("a");
    EXPECT_TRUE(failures.OfJob("a").empty());
    EXPECT_EQ(failures.FirstCounted("a"), nullptr);
  }
}

TEST(DatasetStateTest, CountsAndOpenRangesAreThoseOfEachIndex) {
  common::v1::DatasetRecipe recipe;
  recipe.set_block_size(16);
  recipe.set_holdout_every(3);
  recipe.set_shard_count(2);
  constexpr int64_t kIndices = 96;
  const auto usable = [](int32_t) { return true; };
  const auto take = [](DatasetState::Range open) { return DatasetState::Fit{open.second, true}; };
  for (uint32_t seed = 1; seed <= kSeeds; ++seed) {
    SCOPED_TRACE(seed);
    Draw draw(seed);
    DatasetState state(recipe);
    std::set<int64_t> sealed;
    std::set<int64_t> leased;
    for (int i = 0; i < 200; ++i) {
      common::v1::IndexRange range;
      range.set_begin(draw.Below(kIndices));
      const int64_t block_end = (range.begin() / 16 + 1) * 16;
      range.set_end(std::min(block_end, range.begin() + 1 + draw.Below(8)));
      const int64_t what = draw.Below(100);
      for (int64_t n = range.begin(); n < range.end(); ++n) {
        if (what < 40) sealed.insert(n);
        if (what >= 40 && what < 70) leased.insert(n);
        if (what >= 70 && what < 95) leased.erase(n);
      }
      if (what < 40) {
        ASSERT_THAT(state.MergeSeal(range, 0), IsOk());
      } else if (what < 70) {
        state.Lease(range.begin(), range.end());
      } else if (what < 95) {
        state.Release(range.begin(), range.end());
      } else {
        const auto shard = static_cast<int32_t>(draw.Below(2));
        state.ForgetRecent(shard);
        ASSERT_THAT(state.ReplaceShard(shard, {}, 0, 0), IsOk());
        std::erase_if(sealed, [&](int64_t n) { return state.ShardOf(n) == shard; });
      }
      for (const int64_t limit : {int64_t{0}, int64_t{31}, int64_t{50}, kIndices}) {
        const auto below = [&](auto counts) {
          return std::count_if(sealed.begin(), sealed.end(),
                               [&](int64_t n) { return n < limit && counts(n); });
        };
        ASSERT_EQ(state.SealedCount(limit), below([](int64_t) { return true; }));
        ASSERT_EQ(state.SealedHoldout(limit), below([](int64_t n) { return n % 3 == 0; }));
        int64_t open = 0;
        while (sealed.contains(open) || leased.contains(open)) ++open;
        const auto found = state.FindOpen(limit, 5, usable, take);
        ASSERT_EQ(found.has_value(), open < limit);
        if (!found.has_value()) continue;
        EXPECT_EQ(found->first, open);
        for (int64_t n = found->first; n < found->second; ++n) {
          ASSERT_FALSE(sealed.contains(n) || leased.contains(n)) << n;
        }
      }
    }
  }
}

rows::v1::JobRow JobOf(const std::string& id, const std::string& dataset) {
  rows::v1::JobRow row;
  row.set_id(id);
  row.set_request_id(absl::StrCat("request-", id));
  row.set_dataset(dataset);
  row.set_state(v1::Job::STATE_RUNNING);
  row.set_desired_state(v1::Job::DESIRED_STATE_RUNNING);
  return row;
}

TEST(JobsTest, WhoIsLiveAndHowManyThereAreFollowsEveryChange) {
  const Moment now{absl::FromUnixSeconds(1'700'000'000), absl::Seconds(1)};
  Table<rows::v1::JobRow> rows("job/");
  rows.Load("old", JobOf("old", "d"));
  rows.Load("twin", JobOf("twin", "d"));  // without a sequence number of its own
  Jobs jobs(std::move(rows));
  EXPECT_THAT(jobs.live(), SizeIs(2));
  jobs.Add(JobOf("new", "d"));
  jobs.Add(JobOf("other", "e"));
  const auto ids = [](const Jobs::Live& live) {
    std::vector<std::string> names;
    for (const auto& [sequence, job] : live) names.push_back(job->id());
    return names;
  };
  EXPECT_THAT(ids(jobs.live()), ElementsAre("old", "twin", "new", "other"));
  EXPECT_THAT(ids(jobs.LiveUsersOf("d")), ElementsAre("old", "twin", "new"));
  jobs.SetState("new", v1::Job::STATE_PAUSED, now);
  jobs.End("old", v1::Job::STATE_FAILED, "no", 7, now);
  EXPECT_EQ(jobs.Find("old")->simulated(), 7);
  EXPECT_THAT(ids(jobs.live()), ElementsAre("twin", "new", "other"));
  EXPECT_THAT(ids(jobs.LiveUsersOf("d")), ElementsAre("twin", "new"));
  EXPECT_THAT(jobs.UsersOf("d"), ElementsAre("new", "old", "twin"));
  EXPECT_EQ(jobs.CountIn(v1::Job::STATE_RUNNING), 2);
  EXPECT_EQ(jobs.CountIn(v1::Job::STATE_PAUSED), 1);
  EXPECT_EQ(jobs.CountIn(v1::Job::STATE_FAILED), 1);
  jobs.Erase("old");
  EXPECT_EQ(jobs.CountIn(v1::Job::STATE_FAILED), 0);
  EXPECT_THAT(jobs.UsersOf("d"), ElementsAre("new", "twin"));
  EXPECT_EQ(jobs.FindRequest("request-old"), nullptr);
  EXPECT_EQ(jobs.FindRequest("request-new"), jobs.Find("new"));
  EXPECT_THAT(jobs.by_sequence(), SizeIs(3));
}

}  // namespace
}  // namespace d2g::coordinator

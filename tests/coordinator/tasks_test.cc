// Tasks: what is leased to whom, what a failure leads to, and that it survives a restart.
#include <set>

#include "coordinator/rows/limits.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/common/utf8.h"
#include "tests/coordinator/harness.h"
#include "tests/testing/status_matchers.h"

namespace d2g::coordinator {
namespace {

using ::d2g::testing::IsOk;
using ::d2g::testing::StatusIs;
using ::testing::HasSubstr;
using v1::FailTaskRequest;
using v1::Job;

constexpr auto kInvalidArgument = absl::StatusCode::kInvalidArgument;

TEST(TasksTest, RangesCoverEverythingOnceInsideBlocks) {
  Harness h;
  ASSERT_OK_AND_ASSIGN(const Job job, h.Create(SmallSpec()));
  std::set<int64_t> seen;
  for (int i = 0;; ++i) {
    const std::string worker = absl::StrCat("w", i);
    const v1::Task task = h.LeaseOne(worker);
    if (!task.has_simulate()) break;
    const auto& range = task.simulate().range();
    EXPECT_EQ(range.begin() / 32, (range.end() - 1) / 32) << "crosses a block";
    EXPECT_LE(range.end() - range.begin(), 16);
    EXPECT_EQ(task.simulate().shard().shard(), range.begin() / 32 % 2);
    EXPECT_EQ(task.simulate().recipe().teacher_digest(), kTeacher);
    for (int64_t n = range.begin(); n < range.end(); ++n) EXPECT_TRUE(seen.insert(n).second);
    ASSERT_THAT(h.Complete(task, worker), IsOk());
  }
  EXPECT_EQ(seen.size(), 128u);
  EXPECT_EQ(h.Get(job.name()).stages(0).done(), 128);
  EXPECT_TRUE(h.Get(job.name()).stages(0).has_end_time());
}

TEST(TasksTest, ALostAnswerGivesTheSameLeaseAgain) {
  Harness h;
  ASSERT_THAT(h.Create(SmallSpec()), IsOk());
  const v1::Task first = h.LeaseOne("a");
  EXPECT_EQ(h.LeaseOne("a").lease_id(), first.lease_id()) << "nothing was heard of it yet";
  EXPECT_TRUE(h.Beat(first, 0));
  EXPECT_NE(h.LeaseOne("a").lease_id(), first.lease_id()) << "a worker may hold two";
}

TEST(TasksTest, HalfPrecisionIsForWorkersWithAGpu) {
  Harness h;
  v1::JobSpec spec = SmallSpec();
  spec.mutable_simulate()->mutable_solver()->set_compute_dtype(common::v1::DTYPE_BF16);
  ASSERT_OK_AND_ASSIGN(const Job job, h.Create(spec));
  EXPECT_FALSE(h.LeaseOne("a").has_simulate());
  EXPECT_THAT(h.Get(job.name()).health(), ::testing::Contains(HasSubstr("no workers with a GPU")));
  EXPECT_TRUE(h.LeaseOne("gpu").has_simulate());
  EXPECT_THAT(h.Get(job.name()).health(),
              ::testing::Not(::testing::Contains(HasSubstr("no workers with a GPU"))));
}

TEST(TasksTest, OnlyProgressKeepsALease) {
  Harness h;
  ASSERT_THAT(h.Create(SmallSpec()), IsOk());
  const v1::Task moving = h.LeaseOne("moving");
  const v1::Task stuck = h.LeaseOne("stuck");
  for (int i = 0; i < 15; ++i) {
    h.Advance(absl::Seconds(1));
    EXPECT_TRUE(h.Beat(moving, i));
    if (i < 8) {
      EXPECT_TRUE(h.Beat(stuck, 3)) << i;
    }
  }
  EXPECT_FALSE(h.Beat(stuck, 3)) << "heartbeats without progress must not renew";
  const v1::Task again = h.LeaseOne("b");
  EXPECT_EQ(again.simulate().range().begin(), stuck.simulate().range().begin());
  EXPECT_EQ(again.name(), stuck.name()) << "the same task";
  EXPECT_NE(again.lease_id(), stuck.lease_id()) << "under another lease";
}

TEST(TasksTest, ALateResultCounts) {
  Harness h;
  ASSERT_OK_AND_ASSIGN(const Job job, h.Create(SmallSpec()));
  const v1::Task late = h.LeaseOne("late");
  h.Advance(absl::Seconds(11));
  const v1::Task second = h.LeaseOne("second");
  ASSERT_EQ(second.name(), late.name());
  ASSERT_THAT(h.Complete(late, "late"), IsOk());
  EXPECT_EQ(h.Get(job.name()).stages(0).done(), 16);
  ASSERT_THAT(h.Complete(second, "second"), IsOk()) << "idempotent";
  EXPECT_EQ(h.Get(job.name()).stages(0).done(), 16);
}

TEST(TasksTest, LeasesSurviveARestartWithOneDurationOfGrace) {
  Harness h;
  ASSERT_THAT(h.Create(SmallSpec()), IsOk());
  const v1::Task task = h.LeaseOne("a");
  EXPECT_TRUE(h.Beat(task, 1));
  h.Advance(absl::Seconds(9));
  h.Restart();
  h.Advance(absl::Seconds(9));
  EXPECT_TRUE(h.Beat(task, 2)) << "the restart must not cost the worker its lease";
  const v1::Task other = h.LeaseOne("b");
  EXPECT_NE(other.simulate().range().begin(), task.simulate().range().begin());
  EXPECT_GT(other.lease_id(), task.lease_id()) << "ids are never given twice";
  h.Advance(absl::Seconds(11));
  EXPECT_FALSE(h.Beat(task, 2)) << "grace ends";
}

TEST(TasksTest, APauseOfTheProcessBlamesNobody) {
  Harness h;
  ASSERT_THAT(h.Create(SmallSpec()), IsOk());
  const v1::Task task = h.LeaseOne("a");
  EXPECT_TRUE(h.Beat(task, 1));
  h.clock().AdvanceTime(absl::Seconds(100));  // stopped: no ticks
  h.coordinator().Tick();
  EXPECT_TRUE(h.Beat(task, 2));
  h.clock().JumpWallClock(absl::Hours(5));
  h.coordinator().Tick();
  EXPECT_TRUE(h.Beat(task, 3)) << "leases know no wall time";
}

TEST(TasksTest, ErrorsGoElsewhereAndEndTheJobAfterFiveInFiveMinutes) {
  Harness h;
  ASSERT_OK_AND_ASSIGN(const Job job, h.Create(SmallSpec()));
  const v1::Task first = h.LeaseOne("a");
  const v1::Task held = h.LeaseOne("b");  // so that there is an elsewhere
  ASSERT_TRUE(h.Beat(held, 1));
  h.Fail(first, "a", FailTaskRequest::REASON_ERROR, "out of memory");
  ASSERT_TRUE(h.Beat(held, 2)) << "not all of its tasks fail";
  const v1::Task other = h.LeaseOne("a");
  EXPECT_NE(other.simulate().range().begin(), first.simulate().range().begin())
      << "not to the node where it failed";
  for (int i = 2; i <= 5; ++i) {
    const std::string worker = absl::StrCat("c", i);
    h.Advance(i == 5 ? kTaskFailureSpan - 3 * kMaxTaskBackoff : kMaxTaskBackoff);
    const v1::Task retry = h.LeaseOne(worker);
    ASSERT_EQ(retry.name(), first.name()) << i;
    ASSERT_EQ(h.Get(job.name()).state(), Job::STATE_RUNNING);
    h.Fail(retry, worker, FailTaskRequest::REASON_ERROR, absl::StrCat("reason ", i));
  }
  const Job failed = h.Get(job.name());
  EXPECT_EQ(failed.state(), Job::STATE_FAILED);
  EXPECT_THAT(failed.error(), HasSubstr("simulate [0, 16) failed 5 times in 5m: "));
  EXPECT_THAT(failed.error(), HasSubstr("[node node-a] out of memory"));
  EXPECT_THAT(failed.error(), HasSubstr("reason 5"));
}

TEST(TasksTest, TheOnlyWorkerTriesAgain) {
  Harness h;
  ASSERT_THAT(h.Create(SmallSpec()), IsOk());
  const v1::Task first = h.LeaseOne("a");
  h.Fail(first, "a", FailTaskRequest::REASON_ERROR);
  const v1::Task other = h.LeaseOne("a");
  EXPECT_NE(other.name(), first.name()) << "not at once";
  h.Fail(other, "a", FailTaskRequest::REASON_PREEMPTED);
  h.Advance(kFirstTaskBackoff);
  EXPECT_EQ(h.LeaseOne("a").name(), first.name());
}

TEST(TasksTest, AnOutageOfMinutesFailsNoJob) {
  Harness h;
  ASSERT_OK_AND_ASSIGN(const Job job, h.Create(SmallSpec()));
  absl::Duration passed;
  int failures = 0;
  std::string name;
  const auto fail = [&] {
    const v1::Task task = h.LeaseOne("a");
    if (name.empty()) name = task.name();
    ASSERT_EQ(task.name(), name);
    h.Fail(task, "a", FailTaskRequest::REASON_ERROR, absl::StrCat("reason ", ++failures));
  };
  for (; passed + kMaxTaskBackoff < kTaskFailureSpan; passed += kMaxTaskBackoff) {
    fail();
    h.Advance(kMaxTaskBackoff);
  }
  ASSERT_GT(failures, kMaxTaskFailures);
  EXPECT_EQ(h.Get(job.name()).state(), Job::STATE_RUNNING);
  EXPECT_THAT(h.Get(job.name()).health(),
              ::testing::Contains(absl::StrCat("task 0 failed ", failures,
                                               " times (5 within no less than 5m fail the job): "
                                               "node node-a: reason ",
                                               failures)));
  // The time begins anew with a restart; the count does not.
  h.Restart();
  h.BeatShard(0);
  h.BeatShard(1);
  fail();
  h.Advance(kTaskFailureSpan / 2);
  fail();
  EXPECT_EQ(h.Get(job.name()).state(), Job::STATE_RUNNING);
  h.Advance(kTaskFailureSpan / 2);
  fail();
  const Job failed = h.Get(job.name());
  EXPECT_EQ(failed.state(), Job::STATE_FAILED);
  EXPECT_EQ(failed.error(), absl::StrCat("simulate [0, 16) failed ", failures,
                                         " times in 5m: [node node-a] reason ", failures))
      << "one reason a node";
}

TEST(TasksTest, ATaskThatFailedOnEveryNodeIsTriedAgain) {
  Harness h;
  ASSERT_OK_AND_ASSIGN(const Job job, h.Create(SmallSpec()));
  const v1::Task first = h.LeaseOne("a");
  const v1::Task held = h.LeaseOne("b");
  h.Fail(first, "a", FailTaskRequest::REASON_ERROR, "reason 1");
  h.Fail(held, "b", FailTaskRequest::REASON_PREEMPTED);
  for (int i = 2; i <= 5; ++i) {
    const std::string worker = i % 2 == 0 ? "b" : "a";
    h.Advance(kTaskFailureSpan / 4);
    const v1::Task retry = h.LeaseOne(worker);
    ASSERT_EQ(retry.name(), first.name()) << i;
    h.Fail(retry, worker, FailTaskRequest::REASON_ERROR, absl::StrCat("reason ", i));
  }
  EXPECT_EQ(h.Get(job.name()).state(), Job::STATE_FAILED);
  EXPECT_THAT(h.Get(job.name()).error(), HasSubstr("failed 5 times"));
}

TEST(TasksTest, AShardThatTakesNoTriplesIsLeftAloneForAWhileAndFailsNoJob) {
  Harness h;
  ASSERT_OK_AND_ASSIGN(const Job job, h.Create(SmallSpec()));
  // The other shard's ranges are done; this one's disk is full for more than five attempts.
  std::vector<v1::Task> held;
  for (int i = 0; i < 8; ++i) {
    const v1::Task task = h.LeaseOne("a");
    ASSERT_TRUE(task.has_simulate());
    if (task.simulate().shard().shard() == 1) {
      ASSERT_THAT(h.Complete(task, "a"), IsOk());
    } else {
      held.push_back(task);
      ASSERT_TRUE(h.Beat(task, 1));
    }
  }
  for (const v1::Task& task : held) {
    h.Fail(task, "a", FailTaskRequest::REASON_STORE_UNAVAILABLE, "the disk is full");
  }
  for (int attempt = 2; attempt <= 8; ++attempt) {
    EXPECT_FALSE(h.LeaseOne("a").has_simulate()) << "not at once";
    h.Advance(kMaxTaskBackoff);
    const v1::Task task = h.LeaseOne("a");
    ASSERT_EQ(task.name(), held[0].name()) << attempt;
    h.Fail(task, "a", FailTaskRequest::REASON_STORE_UNAVAILABLE, "the disk is full");
  }
  EXPECT_EQ(h.Get(job.name()).state(), Job::STATE_RUNNING);
  EXPECT_THAT(h.Get(job.name()).health(),
              ::testing::Contains("task 0 waits for the store: node node-a: the disk is full"));
  // It holds while the task is tried again, until its triples become durable.
  h.Advance(kMaxTaskBackoff);
  const v1::Task task = h.LeaseOne("a");
  ASSERT_EQ(task.name(), held[0].name());
  const auto waits = ::testing::Contains(HasSubstr("waits for the store"));
  ASSERT_TRUE(h.Beat(task, 0));
  EXPECT_THAT(h.Get(job.name()).health(), waits);
  ASSERT_TRUE(h.Beat(task, 1));
  EXPECT_THAT(h.Get(job.name()).health(), ::testing::Not(waits));
  // There is room again: that ends the waiting of the others too.
  h.Fail(task, "a", FailTaskRequest::REASON_PREEMPTED);
  EXPECT_EQ(h.SimulateAll("a"), 4);
  EXPECT_EQ(h.Get(job.name()).stages(0).done(), 128);
}

TEST(TasksTest, ATaskThatLapsesAgainAndAgainIsShown) {
  Harness h;
  ASSERT_OK_AND_ASSIGN(const Job job, h.Create(SmallSpec()));
  const auto lapsed = ::testing::Contains(HasSubstr("lapsed"));
  for (int i = 1; i <= 2; ++i) {
    EXPECT_THAT(h.Get(job.name()).health(), ::testing::Not(lapsed)) << i;
    ASSERT_EQ(h.LeaseOne("a").simulate().range().begin(), 0);
    h.Advance(Harness::kLease);
  }
  EXPECT_THAT(h.Get(job.name()).health(),
              ::testing::Contains("task 0 lapsed 2 times: worker a on node node-a made no progress "
                                  "for 10s"));
  ASSERT_THAT(h.Complete(h.LeaseOne("a"), "a"), IsOk());
  EXPECT_THAT(h.Get(job.name()).health(), ::testing::Not(lapsed)) << "it is sealed";
}

TEST(TasksTest, AnotherStoreOfAShardIsTriedAtOnce) {
  Harness h;
  ASSERT_OK_AND_ASSIGN(const Job job, h.Create(SmallSpec()));
  h.StopShard(0);
  for (const int backoff : {1, 2, 4, 5}) {
    const v1::Task task = h.LeaseOne("a");
    ASSERT_EQ(task.simulate().shard().shard(), 0);
    h.Fail(task, "a", FailTaskRequest::REASON_STORE_UNAVAILABLE, "another store");
    h.Advance(absl::Seconds(backoff));
  }
  ASSERT_THAT(h.BeatShard(0, {}, "another"), IsOk());
  EXPECT_EQ(h.LeaseOne("a").simulate().shard().store_uuid(), "another");
}

TEST(TasksTest, PreemptionIsNotCountedAndBadInputEndsTheJob) {
  Harness h;
  ASSERT_OK_AND_ASSIGN(const Job job, h.Create(SmallSpec()));
  for (int i = 0; i < 20; ++i) {
    h.Fail(h.LeaseOne("a"), "a", FailTaskRequest::REASON_PREEMPTED);
  }
  EXPECT_EQ(h.Get(job.name()).state(), Job::STATE_RUNNING);
  h.Fail(h.LeaseOne("a"), "a", FailTaskRequest::REASON_BAD_INPUT, "solver.kind: not supported");
  EXPECT_EQ(h.Get(job.name()).state(), Job::STATE_FAILED);
  EXPECT_THAT(h.Get(job.name()).error(), HasSubstr("node-a: solver.kind: not supported"));
}

// Each length puts the limit at another place within a character.
TEST(TasksTest, MessagesThatAreCutInAnyScriptAreReadAgainByTheNextStart) {
  for (size_t shift = 0; shift < 4; ++shift) {
    Harness h;
    ASSERT_OK_AND_ASSIGN(const Job waits, h.Create(SmallSpec("/tmp/waits")));
    std::string message(shift, '.');
    while (message.size() < 3000) message += "\xf0\x9f\x98\x80";
    const v1::Task task = h.LeaseOne("a");
    v1::HeartbeatTaskRequest beat;
    beat.set_task(task.name());
    beat.set_lease_id(task.lease_id());
    beat.set_phase(message);
    ASSERT_THAT(h.Decide([&](ClusterState& s, Moment now) { return s.HeartbeatTask(beat, now); }),
                IsOk());
    v1::ListTasksRequest request;
    request.set_parent(waits.name());
    const auto list = [&] {
      return h.Decide([&](ClusterState& s, Moment) { return s.ListTasks(request); });
    };
    ASSERT_THAT(list(), IsOk());
    EXPECT_TRUE(common::IsUtf8(list()->tasks(0).phase()));
    h.Fail(task, "a", FailTaskRequest::REASON_ERROR, message);
    h.Restart();
    EXPECT_TRUE(h.rows().aside().empty());
    ASSERT_THAT(list(), IsOk());
    ASSERT_EQ(list()->tasks_size(), 1);
    EXPECT_THAT(list()->tasks(0).last_error(), HasSubstr("\xf0\x9f\x98\x80... (shortened)"));
    // The same for what ends a job.
    h.BeatShard(0);
    h.Fail(h.LeaseOne("a"), "a", FailTaskRequest::REASON_BAD_INPUT, message);
    h.Restart();
    EXPECT_TRUE(h.rows().aside().empty());
    EXPECT_EQ(h.Get(waits.name()).state(), Job::STATE_FAILED);
    EXPECT_THAT(h.Get(waits.name()).error(), HasSubstr("(shortened)"));
  }
}

TEST(TasksTest, ListTasksShowsHoldersAndReasons) {
  Harness h;
  ASSERT_OK_AND_ASSIGN(const Job job, h.Create(SmallSpec()));
  const v1::Task failed = h.LeaseOne("a");
  const v1::Task held = h.LeaseOne("b");
  EXPECT_TRUE(h.Beat(held, 7));
  h.Fail(failed, "a", FailTaskRequest::REASON_ERROR, "no space");
  v1::ListTasksRequest request;
  request.set_parent(job.name());
  request.set_page_size(1);
  ASSERT_OK_AND_ASSIGN(const auto one,
                       h.Decide([&](ClusterState& s, Moment) { return s.ListTasks(request); }));
  ASSERT_EQ(one.tasks_size(), 1);
  EXPECT_EQ(one.tasks(0).failures(), 1);
  EXPECT_THAT(one.tasks(0).last_error(), HasSubstr("no space"));
  EXPECT_EQ(one.tasks(0).worker(), "");
  request.set_page_token(one.next_page_token());
  ASSERT_OK_AND_ASSIGN(const auto two,
                       h.Decide([&](ClusterState& s, Moment) { return s.ListTasks(request); }));
  ASSERT_EQ(two.tasks_size(), 1);
  EXPECT_EQ(two.tasks(0).worker(), "b");
  EXPECT_EQ(two.tasks(0).progress(), 7);
  EXPECT_EQ(two.tasks(0).phase(), "simulate");
  EXPECT_EQ(two.next_page_token(), "");
}

TEST(TasksTest, RefusesMalformedRequests) {
  Harness h;
  v1::LeaseTaskRequest request;
  const auto lease = [&] {
    return h.Decide([&](ClusterState& s, Moment now) { return s.LeaseTask(request, now); });
  };
  EXPECT_THAT(lease(), StatusIs(kInvalidArgument, HasSubstr("worker.id")));
  *request.mutable_worker() = Harness::Worker("a");
  EXPECT_THAT(lease(), StatusIs(kInvalidArgument, HasSubstr("kinds")));
  request.mutable_worker()->set_node(std::string(129, 'x'));
  EXPECT_THAT(lease(), StatusIs(kInvalidArgument, HasSubstr("worker.node: has 129 bytes")));
}

}  // namespace
}  // namespace d2g::coordinator

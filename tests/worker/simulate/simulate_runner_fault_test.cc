// A task whose shard or lease goes away.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <thread>

#include "tests/testing/status_matchers.h"
#include "tests/worker/simulate/simulate_runner_fixture.h"
#include "worker/lease/shard_patience.h"

namespace d2g::simulate {
namespace {

using ::d2g::testing::IsOk;
using ::d2g::testing::StatusIs;
using ::d2g::testing::WaitFor;
using ::testing::AllOf;
using ::testing::HasSubstr;

TEST_F(SimulateRunnerTest, AFullShardAndAReplacedOneAreUnavailable) {
  shard_.Kill();
  shard_.Restart(/*min_free=*/"1000000000000000");
  EXPECT_THAT(Run(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("the disk of")));
  shard_.Kill();
  shard_.Restart();
  work().mutable_shard()->set_store_uuid("another");
  EXPECT_THAT(Run(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("another")));
  work().mutable_shard()->clear_store_uuid();
  EXPECT_THAT(Run(), IsOk());
}

TEST_F(SimulateRunnerTest, AShardThatNobodyReachesIsGivenUpWithinTheLease) {
  shard_.Kill();
  work().mutable_shard()->set_shard(3);
  task_.mutable_lease_duration()->set_nanos(400'000'000);
  EXPECT_EQ(lease::ShardPatience(task_, absl::Minutes(10)), absl::Milliseconds(200));
  EXPECT_EQ(lease::ShardPatience(task_, absl::Milliseconds(7)), absl::Milliseconds(7));
  EXPECT_EQ(lease::ShardPatience({}, absl::Minutes(10)), absl::Minutes(10));
  EXPECT_THAT(Run(), StatusIs(absl::StatusCode::kUnavailable,
                              AllOf(HasSubstr("shard 3: store " + shard_.address()),
                                    HasSubstr("check its --advertise-address"))));
}

TEST_F(SimulateRunnerTest, AShardThatIsReplacedUnderATaskIsUnavailable) {
  work().set_batch_size(2);
  recipe().mutable_solver()->set_steps(60);
  absl::Status status;
  std::thread running([&] { status = Run(); });
  EXPECT_TRUE(WaitFor([&] { return Value("d2g_simulate_batches_total") >= 1; }));
  shard_.Kill();
  std::filesystem::remove_all(dir_.File("store"));
  shard_.Restart();
  running.join();
  // The new store has not opened the dataset.
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("is not open")));
}

TEST_F(SimulateRunnerTest, StoppedTasksFlushAndAnotherGoesOn) {
  work().set_batch_size(4);
  recipe().mutable_solver()->set_steps(60);
  lease::TaskContext context;
  absl::Status status;
  std::thread running([&] { status = Run(&context); });
  ASSERT_TRUE(WaitFor([&] { return Value("d2g_simulate_batches_total") >= 2; }));
  context.Cancel(lease::CancelReason::kStopping);
  running.join();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kCancelled));
  const double solved = Value("d2g_simulate_triples_total");
  EXPECT_LT(solved, 20);
  // What was solved is durable: the second run solves only the rest.
  ASSERT_THAT(Run(), IsOk());
  EXPECT_EQ(Value("d2g_simulate_skipped_triples_total"), solved);
  EXPECT_EQ(Value("d2g_simulate_triples_total"), 20);
  EXPECT_THAT(Read(3, 23), IsOk());
  // And a third nothing.
  ASSERT_THAT(Run(), IsOk());
  EXPECT_EQ(Value("d2g_simulate_triples_total"), 20);
}

TEST_F(SimulateRunnerTest, SurvivesAKilledShard) {
  work().set_batch_size(2);
  lease::TaskContext context;
  absl::Status status;
  std::thread running([&] { status = Run(&context); });
  EXPECT_TRUE(WaitFor([&] { return Value("d2g_simulate_batches_total") >= 2; }));
  shard_.Kill();
  shard_.Restart();
  running.join();
  ASSERT_THAT(status, IsOk());
  ASSERT_OK_AND_ASSIGN(const auto summary,
                       store::TripleClient(work().shard())
                           .VerifyDataset(
                               kDataset, [](const auto&) {}, absl::Now() + absl::Seconds(20)));
  EXPECT_EQ(summary.present(), 20);
  EXPECT_EQ(summary.bad(), 0);
}

TEST_F(SimulateRunnerTest, ARevokedTaskEndsThoughTheShardIsAway) {
  shard_.Kill();
  lease::TaskContext context;
  absl::Status status;
  std::thread running([&] { status = Run(&context); });
  EXPECT_TRUE(WaitFor([&] { return context.progress() > 0; }));
  context.Cancel(lease::CancelReason::kRevoked);
  const absl::Time start = absl::Now();
  running.join();
  EXPECT_LT(absl::Now() - start, absl::Seconds(20));
  EXPECT_FALSE(status.ok());
}

// With a batch on its way to a store that has gone, and the next one waiting behind it.
TEST_F(SimulateRunnerTest, CancelledTasksEndThoughTheStoreHangs) {
  flush_patience_ = absl::Milliseconds(200);
  work().set_batch_size(2);
  constexpr int kSteps = 100, kEvaluations = 2 * 2 * kSteps;
  recipe().mutable_solver()->set_steps(kSteps);
  for (const lease::CancelReason reason :
       {lease::CancelReason::kRevoked, lease::CancelReason::kStopping}) {
    SCOPED_TRACE(reason == lease::CancelReason::kStopping);
    lease::TaskContext context;
    absl::Status status;
    // Nothing is exported before the first run.
    const auto count = [&](const char* name) { return std::max(0.0, Value(name)); };
    const double batches = count("d2g_simulate_batches_total");
    const double evaluations = count("d2g_simulate_unet_evaluations_total");
    const auto evaluated = [&] {
      return count("d2g_simulate_unet_evaluations_total") - evaluations;
    };
    std::thread running([&] { status = Run(&context); });
    // During the first batch: the session is open.
    EXPECT_TRUE(WaitFor([&] { return evaluated() > 0; }));
    shard_.Kill();
    // The last batch solved is not the writer's.
    EXPECT_TRUE(WaitFor([&] {
      const double written = count("d2g_simulate_batches_total") - batches;
      return written > 0 && evaluated() == (written + 1) * kEvaluations;
    }));
    context.Cancel(reason);
    const absl::Time start = absl::Now();
    running.join();
    // A stop waits for the flush's patience and the client's pause, far from the task's 60 s.
    EXPECT_LT(absl::Now() - start, absl::Seconds(20));
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kCancelled));
    shard_.Restart();
  }
  ASSERT_THAT(Run(), IsOk());
  EXPECT_THAT(Read(3, 23), IsOk());
}

// The range's only batch: nothing after it would meet the dead shard.
TEST_F(SimulateRunnerTest, AShardThatDiesDuringTheLastBatchIsNamed) {
  work().set_batch_size(20);
  work().mutable_shard()->set_shard(0);
  recipe().mutable_solver()->set_steps(400);
  task_.mutable_lease_duration()->set_seconds(6);
  lease::TaskContext context;
  absl::Status status;
  std::thread running([&] { status = Run(&context); });
  // The session is open, and the solver on its way.
  EXPECT_TRUE(WaitFor([&] { return Value("d2g_simulate_unet_evaluations_total") >= 40; }));
  shard_.Kill();
  running.join();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable,
                               HasSubstr("shard 0: store " + shard_.address())));
}

}  // namespace
}  // namespace d2g::simulate

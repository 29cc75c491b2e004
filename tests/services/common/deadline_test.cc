// Links clock_shim.cc: *d2g_clock_shift() sets this process's wall clock.
#include "services/common/deadline.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "grpcpp/alarm.h"
#include "grpcpp/completion_queue.h"
#include "services/common/clock.h"
#include "services/common/grpc_library.h"
#include "tests/testing/clock_shift.h"

namespace d2g::common {
namespace {

using ::testing::AllOf;
using ::testing::Ge;
using ::testing::Lt;

constexpr absl::Duration kWait = absl::Seconds(1);
constexpr absl::Duration kStep = absl::Hours(1);

// Runs `wait`, which should last kWait, sets the clock in the middle of it, and tells how long it
// took.
template <typename Wait>
absl::Duration TimeAcrossStep(absl::Duration step, Wait wait) {
  const absl::Duration start = RealClock::Get()->SteadyNow();
  std::thread setter([&] {
    absl::SleepFor(kWait / 4);
    *d2g_clock_shift() = absl::ToInt64Nanoseconds(step);
  });
  wait();
  const absl::Duration took = RealClock::Get()->SteadyNow() - start;
  setter.join();
  return took;
}

// The wall clock is set by this much.
class DeadlineTest : public ::testing::TestWithParam<absl::Duration> {
 protected:
  DeadlineTest() { *d2g_clock_shift() = 0; }
};

const auto kAsLongAsAsked = AllOf(Ge(kWait * 0.95), Lt(kWait + absl::Seconds(15)));

TEST_P(DeadlineTest, TheWallClockIsReallySet) {
  const absl::Time before = absl::Now();
  TimeAcrossStep(GetParam(), [] { absl::SleepFor(kWait); });
  EXPECT_LT(absl::AbsDuration(absl::Now() - before - GetParam()), absl::Minutes(1));
}

TEST_P(DeadlineTest, TimeLeftDoesNotJump) {
  const absl::Time deadline = DeadlineIn(absl::Minutes(10));
  TimeAcrossStep(GetParam(), [] { absl::SleepFor(kWait); });
  EXPECT_THAT(TimeLeft(deadline), AllOf(Ge(absl::Minutes(9)), Lt(absl::Minutes(10))));
}

TEST_P(DeadlineTest, AMutexWaitsAsLongAsAsked) {
  absl::Mutex mutex;
  bool never = false;
  EXPECT_THAT(TimeAcrossStep(GetParam(),
                             [&] {
                               absl::MutexLock lock(&mutex);
                               EXPECT_FALSE(mutex.AwaitWithTimeout(absl::Condition(&never), kWait));
                             }),
              kAsLongAsAsked);
}

TEST_P(DeadlineTest, ANotificationWaitsAsLongAsAsked) {
  absl::Notification never;
  EXPECT_THAT(TimeAcrossStep(GetParam(),
                             [&] { EXPECT_FALSE(never.WaitForNotificationWithTimeout(kWait)); }),
              kAsLongAsAsked);
}

TEST_P(DeadlineTest, ATimerOfGrpcWaitsAsLongAsAsked) {
  KeepGrpcInitialised();
  EXPECT_THAT(TimeAcrossStep(GetParam(),
                             [] {
                               grpc::CompletionQueue queue;
                               grpc::Alarm alarm;
                               alarm.Set(&queue,
                                         gpr_time_from_millis(absl::ToInt64Milliseconds(kWait),
                                                              GPR_TIMESPAN),
                                         nullptr);
                               void* tag = nullptr;
                               bool ok = false;
                               EXPECT_TRUE(queue.Next(&tag, &ok));
                               EXPECT_TRUE(ok);
                             }),
              kAsLongAsAsked);
}

INSTANTIATE_TEST_SUITE_P(SetBackAndForward, DeadlineTest, ::testing::Values(-kStep, kStep),
                         [](const auto& info) {
                           return info.param < absl::ZeroDuration() ? "Back" : "Forward";
                         });

TEST(WaitTest, AWaitEndsWhenItIsWoken) {
  absl::Mutex mutex;
  std::atomic<int> turns{0};
  int turn = 0;
  const auto play = [&](int mine) {
    const auto my_turn = [&turn, mine] { return turn == mine; };
    for (int k = 0; k < 2000; ++k) {
      absl::MutexLock lock(&mutex);
      ASSERT_TRUE(mutex.AwaitWithTimeout(absl::Condition(&my_turn), absl::Seconds(60)));
      turn = 1 - mine;
      ++turns;
    }
  };
  std::thread other([&] { play(1); });
  play(0);
  other.join();
  EXPECT_EQ(turns, 4000);
}

}  // namespace
}  // namespace d2g::common

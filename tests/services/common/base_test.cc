// Clock, log, retry, thread pool, address, program helpers.
#include <atomic>
#include <csignal>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "services/common/address.h"
#include "services/common/clock.h"
#include "services/common/log.h"
#include "services/common/program.h"
#include "services/common/retry.h"
#include "services/common/signals.h"
#include "services/common/thread_pool.h"
#include "services/common/utf8.h"
#include "tests/testing/status_matchers.h"

namespace d2g::common {
namespace {

using ::d2g::testing::IsOk;
using ::d2g::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(Utf8Test, BytesThatAreNoCharacterBecomeQuestionMarks) {
  EXPECT_EQ(ValidUtf8("caf\xe9 \xc3\xa9 \xf0\x9f\x98\x80", 100), "caf? \xc3\xa9 \xf0\x9f\x98\x80");
  EXPECT_EQ(ValidUtf8("\xed\xa0\x80\xc0\x80\xff", 100), "??????");
  EXPECT_EQ(ValidUtf8("", 4), "");
  EXPECT_TRUE(IsUtf8("\xc3\xa9"));
  EXPECT_FALSE(IsUtf8("\xc3"));
}

TEST(Utf8Test, LongTextsAreCutBetweenCharactersAndSaySo) {
  EXPECT_EQ(ValidUtf8("ab\xc3\xa9z", 3), "ab") << "too short for the mark";
  EXPECT_EQ(ValidUtf8("ab\xc3\xa9z", 4), "ab\xc3\xa9");
  // Two, three and four bytes a character: each limit falls inside one sooner or later.
  for (const std::string character : {"\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80"}) {
    std::string text;
    for (int i = 0; i < 30; ++i) text += character;
    for (size_t limit = 0; limit <= text.size(); ++limit) {
      const std::string cut = ValidUtf8(text, limit);
      EXPECT_TRUE(IsUtf8(cut)) << limit;
      EXPECT_LE(cut.size(), limit);
      EXPECT_GT(cut.size() + character.size(), limit) << "shorter than it has to be";
      EXPECT_EQ(absl::StrContains(cut, kCutMark),
                limit < text.size() && limit >= sizeof(kCutMark) - 1)
          << limit;
    }
    EXPECT_EQ(ValidUtf8(text, text.size()), text);
  }
}

TEST(Utf8Test, WhatATerminalWouldObeyIsWrittenOut) {
  EXPECT_EQ(WithoutControls("\x1b[31mRED\x1b]0;title\x07\n\r\t\x7f"),
            "\\u001b[31mRED\\u001b]0;title\\u0007\\n\\r\\t\\u007f");
  // C1, also as the byte that some terminals take for it; and what turns the direction.
  EXPECT_EQ(WithoutControls("\xc2\x9b"
                            "2J \x9b"),
            "\\u009b2J ?");
  EXPECT_EQ(WithoutControls("a\xe2\x80\xae"
                            "b\xe2\x81\xa6"
                            "c\xd8\x9c"),
            "a\\u202eb\\u2066c\\u061c");
  const std::string plain = "caf\xc3\xa9 \xe5\xa5\xbd \\ \xf0\x9f\x98\x80 \xc2\xa0";
  EXPECT_EQ(WithoutControls(plain), plain);
  EXPECT_FALSE(HoldsControl(plain));
  for (const char* bad : {"\x01", "\x7f", "\xc2\x80", "\xc2\x9f", "\xe2\x80\x8e", "\xe2\x80\x8f",
                          "\xe2\x80\xaa", "\xe2\x81\xa9", "\xd8\x9c"}) {
    EXPECT_TRUE(HoldsControl(absl::StrCat("good", bad, "good"))) << absl::CHexEscape(bad);
  }
}

TEST(FakeClockTest, MovesOnlyWhenTold) {
  FakeClock clock;
  const absl::Time start = clock.Now();
  const absl::Duration steady = clock.SteadyNow();
  clock.AdvanceTime(absl::Seconds(3));
  EXPECT_EQ(clock.Now() - start, absl::Seconds(3));
  EXPECT_EQ(clock.SteadyNow() - steady, absl::Seconds(3));
  clock.JumpWallClock(-absl::Hours(1));
  EXPECT_EQ(clock.SteadyNow() - steady, absl::Seconds(3));
  EXPECT_LT(clock.Now(), start);
}

TEST(RealClockTest, SteadyTimeGrows) {
  const absl::Duration first = RealClock::Get()->SteadyNow();
  EXPECT_GE(RealClock::Get()->SteadyNow(), first);
}

class LogTest : public ::testing::Test {
 protected:
  // What one call writes.
  static std::string Written(const std::string& format) {
    EXPECT_THAT(InitLog({.format = format, .level = "info", .component = "tester"}), IsOk());
    ::testing::internal::CaptureStderr();
    LogDebug("not shown");
    LogInfo("sealed a range", {{"dataset", "datasets/a b"},
                               {"begin", int64_t{4096}},
                               {"share", 0.5},
                               {"ok", true},
                               {"bad", 0.0 / 0.0},
                               {"text", "say \"hi\"\n"}});
    std::string text = ::testing::internal::GetCapturedStderr();
    EXPECT_THAT(InitLog({}), IsOk());
    return text;
  }
};

TEST_F(LogTest, PlainIsOneReadableLine) {
  const std::string line = Written("plain");
  EXPECT_THAT(line, HasSubstr("I tester: sealed a range dataset=\"datasets/a b\" begin=4096 "
                              "share=0.5 ok=true"));
  EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1);
}

TEST_F(LogTest, JsonIsOneParsableObject) {
  const std::string line = Written("json");
  const auto json = nlohmann::json::parse(line);
  EXPECT_EQ(json["message"], "sealed a range");
  EXPECT_EQ(json["level"], "info");
  EXPECT_EQ(json["component"], "tester");
  EXPECT_EQ(json["begin"], 4096);
  EXPECT_EQ(json["ok"], true);
  EXPECT_EQ(json["text"], "say \"hi\"\n");
  EXPECT_TRUE(json["bad"].is_string());
}

TEST_F(LogTest, LinesOfOthersTextAreValidAndOneLine) {
  for (const char* format : {"plain", "json"}) {
    EXPECT_THAT(InitLog({.format = format}), IsOk());
    ::testing::internal::CaptureStderr();
    LogInfo("a rank died", {{"said", "caf\xc3"}, {"colour", "\x1b[31mRED"}, {"c1", "\xc2\x9bJ"}});
    const std::string text = ::testing::internal::GetCapturedStderr();
    EXPECT_TRUE(IsUtf8(text)) << text;
    EXPECT_FALSE(HoldsControl(text.substr(0, text.size() - 1))) << text;
    if (format == std::string("json")) {
      const auto json = nlohmann::json::parse(text);
      EXPECT_EQ(json["colour"], "\x1b[31mRED");
      EXPECT_EQ(json["said"], "caf?");
    }
  }
  EXPECT_THAT(InitLog({}), IsOk());
}

TEST(InitLogTest, UnknownNamesAreRefused) {
  EXPECT_THAT(InitLog({.format = "xml"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("xml")));
  EXPECT_THAT(InitLog({.level = "loud"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("loud")));
}

TEST(BackoffTest, GrowsWithJitterUpToTheBound) {
  const BackoffOptions options{.initial = absl::Seconds(1), .max = absl::Seconds(4), .factor = 2};
  Backoff backoff(options, /*seed=*/1);
  for (const int bound : {1, 2, 4, 4, 4}) {
    const absl::Duration wait = backoff.Next();
    EXPECT_LE(wait, absl::Seconds(bound));
    EXPECT_GE(wait, absl::Seconds(bound) * 0.5);
  }
  backoff.Reset();
  EXPECT_LE(backoff.Next(), absl::Seconds(1));
}

RetryOptions QuickRetry() {
  return {.backoff = {.initial = absl::Milliseconds(1), .max = absl::Milliseconds(2)}};
}

TEST(RetryUntilTest, RetriesUnavailableUntilSuccess) {
  int calls = 0;
  EXPECT_THAT(RetryUntil(
                  absl::InfiniteFuture(),
                  [&] { return ++calls < 4 ? absl::UnavailableError("down") : absl::OkStatus(); },
                  QuickRetry()),
              IsOk());
  EXPECT_EQ(calls, 4);
}

TEST(RetryUntilTest, OtherErrorsEndAtOnce) {
  int calls = 0;
  EXPECT_THAT(RetryUntil(absl::InfiniteFuture(),
                         [&] {
                           ++calls;
                           return absl::NotFoundError("no");
                         }),
              StatusIs(absl::StatusCode::kNotFound));
  EXPECT_EQ(calls, 1);
}

TEST(RetryUntilTest, GivesUpAtTheDeadlineWithTheLastError) {
  EXPECT_THAT(RetryUntil(
                  absl::Now() + absl::Milliseconds(20),
                  [] { return absl::UnavailableError("host down"); }, QuickRetry()),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("host down")));
}

TEST(RetryUntilTest, StopsWhenNotified) {
  absl::Notification stop;
  RetryOptions options;
  options.stop = &stop;
  options.backoff = {.initial = absl::Hours(1), .max = absl::Hours(1)};
  std::thread notifier([&] { stop.Notify(); });
  EXPECT_THAT(RetryUntil(
                  absl::InfiniteFuture(), [] { return absl::UnavailableError("down"); }, options),
              StatusIs(absl::StatusCode::kCancelled));
  notifier.join();
}

TEST(ThreadPoolTest, RunsEverythingBeforeItEnds) {
  std::atomic<int> done{0};
  {
    ThreadPool pool("test", 2, 4);
    for (int i = 0; i < 100; ++i) pool.Schedule([&] { ++done; });
  }
  EXPECT_EQ(done, 100);
}

TEST(ThreadPoolTest, RefusesWhenTheQueueIsFull) {
  absl::Notification started;
  absl::Notification release;
  ThreadPool pool("test", 1, 1);
  ASSERT_TRUE(pool.TrySchedule([&] {
    started.Notify();
    release.WaitForNotification();
  }));
  started.WaitForNotification();
  EXPECT_TRUE(pool.TrySchedule([] {}));
  EXPECT_FALSE(pool.TrySchedule([] {}));
  EXPECT_EQ(pool.queued(), 1);
  release.Notify();
}

TEST(AddressTest, ParsesHostsAndPorts) {
  ASSERT_OK_AND_ASSIGN(const HostPort v4, ParseAddress("127.0.0.1:80"));
  EXPECT_EQ(v4.host, "127.0.0.1");
  EXPECT_EQ(v4.port, 80);
  ASSERT_OK_AND_ASSIGN(const HostPort v6, ParseAddress("[::1]:0"));
  EXPECT_EQ(v6.host, "::1");
  EXPECT_EQ(FormatAddress(v6.host, 5), "[::1]:5");
  for (const char* bad : {"nothing", ":80", "host:", "host:70000", "host:-1", "::1:80"}) {
    EXPECT_THAT(ParseAddress(bad), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(bad)));
  }
}

TEST(AddressTest, ASchemeIsNamed) {
  EXPECT_THAT(ParseAddress("http://127.0.0.1:5000"),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("http://127.0.0.1:5000"), HasSubstr("leave out 'http://'"),
                             Not(HasSubstr("IPv6")))));
}

TEST(AddressTest, BeyondLoopbackNeedsInsecure) {
  EXPECT_THAT(CheckListenAddress("0.0.0.0:80", false),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("--insecure")));
  EXPECT_THAT(CheckListenAddress("0.0.0.0:80", true), IsOk());
  for (const char* local : {"127.0.0.1:0", "localhost:0", "[::1]:0"}) {
    EXPECT_THAT(CheckListenAddress(local, false), IsOk());
  }
}

TEST(ProgramTest, ExitCodes) {
  EXPECT_EQ(ExitCodeOf(absl::OkStatus()), 0);
  EXPECT_EQ(ExitCodeOf(absl::InternalError("")), 1);
  EXPECT_EQ(ExitCodeOf(absl::InvalidArgumentError("")), 3);
  EXPECT_EQ(ExitCodeOf(absl::UnavailableError("")), 4);
}

std::optional<int> Parse(CLI::App* app, std::vector<std::string> words) {
  words.insert(words.begin(), "tool");
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  return ParseCommandLine(app, static_cast<int>(argv.size()), argv.data());
}

TEST(ProgramTest, ServerFlagsAndDurations) {
  CLI::App app("tool");
  ServerFlags flags;
  absl::Duration lease = absl::Seconds(60);
  AddServerFlags(&app, &flags);
  AddDurationFlag(&app, "--lease", &lease, "help");
  EXPECT_EQ(Parse(&app, {"--listen", "127.0.0.1:1", "--lease", "1m30s", "--log-format", "json"}),
            std::nullopt);
  EXPECT_EQ(flags.listen, "127.0.0.1:1");
  EXPECT_EQ(flags.log.format, "json");
  EXPECT_EQ(lease, absl::Seconds(90));
}

TEST(ProgramTest, BadFlagsEndWithUsage) {
  for (const std::vector<std::string>& words : std::vector<std::vector<std::string>>{
           {"--nonsense"}, {"--lease", "soon"}, {"--lease", "-1s"}, {"--log-level", "loud"}}) {
    CLI::App app("tool");
    ServerFlags flags;
    absl::Duration lease = absl::Seconds(60);
    AddServerFlags(&app, &flags);
    AddDurationFlag(&app, "--lease", &lease, "help");
    EXPECT_EQ(Parse(&app, words), kExitUsage) << words[0];
  }
}

TEST(SignalsTest, StopSignalIsReturnedAndTimeoutIsNothing) {
  std::thread([] {
    BlockStopSignals();
    EXPECT_EQ(WaitForStopSignal(absl::ZeroDuration()), std::nullopt);
    pthread_kill(pthread_self(), SIGTERM);
    EXPECT_EQ(WaitForStopSignal(absl::Seconds(10)), SIGTERM);
  }).join();
}

}  // namespace
}  // namespace d2g::common

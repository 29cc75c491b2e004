// What a program inherits, told by programs.
#include "services/common/launch.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace d2g::common {
namespace {

using ::testing::ElementsAre;

struct Result {
  ExitStatus end;
  std::vector<std::string> lines;
};

std::vector<std::string> LinesOf(int file) {
  std::string text(1 << 16, '\0');
  text.resize(static_cast<size_t>(std::max<ssize_t>(0, pread(file, text.data(), text.size(), 0))));
  return absl::StrSplit(text, '\n', absl::SkipEmpty());
}

// Runs a script of sh to its end; `file` takes stdout and, with `with_status`, the status
// descriptor.
Result RunScript(const std::string& script, bool with_status = false) {
  const int file = memfd_create("out", MFD_CLOEXEC);
  const auto pid = Launch({.argv = {"/bin/sh", "-c", script},
                           .environment = {"D2G_LAUNCHED=yes"},
                           .stdout_fd = file,
                           .stderr_fd = STDERR_FILENO,
                           .status_fd = with_status ? file : -1});
  EXPECT_TRUE(pid.ok()) << pid.status();
  int raw = 0;
  EXPECT_EQ(waitpid(*pid, &raw, 0), *pid);
  Result result{ExitStatus::FromWait(raw), LinesOf(file)};
  close(file);
  return result;
}

TEST(LaunchTest, NoSignalIsBlockedOrIgnoredThoughOursAre) {
  sigset_t blocked, before;
  sigemptyset(&blocked);
  for (const int signal : {SIGTERM, SIGUSR1}) sigaddset(&blocked, signal);
  pthread_sigmask(SIG_BLOCK, &blocked, &before);
  const auto hangup = ::signal(SIGHUP, SIG_IGN);
  const auto user = ::signal(SIGUSR2, SIG_IGN);
  const Result result = RunScript("grep -E '^Sig(Blk|Ign)' /proc/self/status");
  ::signal(SIGHUP, hangup);
  ::signal(SIGUSR2, user);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  EXPECT_THAT(result.lines, ElementsAre("SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000"));
}

TEST(LaunchTest, OnlyTheNamedDescriptorsAreThere) {
  // As a library opens one that forgets close-on-exec.
  const int leaked = open("/dev/null", O_RDONLY);
  ASSERT_GE(leaked, 0);
  const std::string list =
      "for fd in 0 1 2 3 4 5 6 7 8 9; do [ -e /proc/$$/fd/$fd ] && echo $fd; done";
  const std::string ask = absl::StrCat("[ -e /proc/$$/fd/", leaked, " ] && echo leaked; ");
  EXPECT_THAT(RunScript(ask + list).lines, ElementsAre("0", "1", "2"));
  EXPECT_THAT(RunScript(ask + list, /*with_status=*/true).lines, ElementsAre("0", "1", "2", "3"));
  EXPECT_THAT(RunScript("readlink /proc/$$/fd/0").lines, ElementsAre("/dev/null"));
  close(leaked);
}

TEST(LaunchTest, HasAGroupOfItsOwnAndOurEnvironment) {
  const Result result =
      RunScript("[ $(ps -o pgid= -p $$) = $$ ] && echo own; echo $D2G_LAUNCHED; exit 7");
  EXPECT_THAT(result.lines, ElementsAre("own", "yes"));
  EXPECT_TRUE(result.end.Exited(7));
  EXPECT_EQ(result.end.ToString(), "exit code 7");
  const ExitStatus killed = RunScript("kill -KILL $$").end;
  EXPECT_FALSE(killed.Exited(SIGKILL));
  EXPECT_EQ(killed.ToString(), "signal 9 (Killed)");
}

TEST(LaunchTest, DiesWithTheThreadThatLaunchedIt) {
  absl::StatusOr<pid_t> pid;
  std::thread([&pid] {
    pid = Launch({.argv = {"tail", "-f", "/dev/null"},
                  .stdout_fd = STDOUT_FILENO,
                  .stderr_fd = STDERR_FILENO});
  }).join();
  ASSERT_TRUE(pid.ok()) << pid.status();
  int raw = 0;
  ASSERT_EQ(waitpid(*pid, &raw, 0), *pid);
  EXPECT_EQ(ExitStatus::FromWait(raw).ToString(), "signal 9 (Killed)");
}

TEST(LaunchTest, AProgramThatCannotRunIsNamedAndLeavesNoChild) {
  const auto missing = Launch({.argv = {"/no/such/program"}, .stdout_fd = 1, .stderr_fd = 2});
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(missing.status().message(), "cannot run /no/such/program: No such file or directory");
  const auto folder = Launch({.argv = {"/"}, .stdout_fd = 1, .stderr_fd = 2});
  EXPECT_EQ(folder.status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(Launch({}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
}

}  // namespace
}  // namespace d2g::common

#include "services/common/child_process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/wait.h"

namespace d2g::common {
namespace {

using ::d2g::testing::StatusIs;
using ::d2g::testing::WaitFor;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr absl::Duration kWait = absl::Seconds(20);

ChildOptions Shell(const std::string& script) { return {.argv = {"/bin/sh", "-c", script}}; }

TEST(ChildProcessTest, ReadsOutputAndExitCode) {
  ASSERT_OK_AND_ASSIGN(auto child,
                       ChildProcess::Start(Shell("echo a; echo b >&2; printf c; exit 3")));
  ASSERT_TRUE(child->WaitForExit(kWait));
  EXPECT_EQ(child->exit_status()->ToString(), "exit code 3");
  EXPECT_THAT(child->LastOutputLines(), ElementsAre("a", "b", "c"));
}

TEST(ChildProcessTest, ReadsStatusPipe) {
  absl::Mutex mutex;
  std::vector<std::string> lines;
  ChildOptions options = Shell("echo one >&3; echo two >&3; echo other");
  options.status_pipe = true;
  options.on_status_line = [&](std::string_view line) {
    absl::MutexLock lock(&mutex);
    lines.emplace_back(line);
  };
  ASSERT_OK_AND_ASSIGN(auto child, ChildProcess::Start(std::move(options)));
  ASSERT_TRUE(child->WaitForExit(kWait));
  EXPECT_THAT(lines, ElementsAre("one", "two"));
  EXPECT_THAT(child->LastOutputLines(), ElementsAre("other"));
}

TEST(ChildProcessTest, KeepsOnlyTheLastLines) {
  ASSERT_OK_AND_ASSIGN(auto child, ChildProcess::Start(Shell("seq 1000")));
  ASSERT_TRUE(child->WaitForExit(kWait));
  const auto lines = child->LastOutputLines();
  EXPECT_EQ(lines.size(), kKeptOutputLines);
  EXPECT_EQ(lines.back(), "1000");
}

TEST(ChildProcessTest, NamesWhatCannotRun) {
  EXPECT_THAT(ChildProcess::Start({.argv = {"/no/such/program"}}),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/no/such/program")));
}

TEST(ChildProcessTest, HasDefaultSignalsThoughOursAreBlocked) {
  sigset_t blocked, before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &blocked, &before);
  auto child = ChildProcess::Start(Shell("exec sleep 60"));
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  ASSERT_TRUE(child.ok()) << child.status();
  (*child)->Signal(SIGTERM);
  ASSERT_TRUE((*child)->WaitForExit(kWait));
  EXPECT_THAT((*child)->exit_status()->ToString(), HasSubstr("signal 15"));
}

TEST(ChildProcessTest, AddsToTheEnvironment) {
  setenv("D2G_CHILD_TEST", "ours", 1);
  ChildOptions options = Shell("echo $D2G_CHILD_TEST $HOME");
  options.environment = {"D2G_CHILD_TEST=theirs"};
  ASSERT_OK_AND_ASSIGN(auto child, ChildProcess::Start(std::move(options)));
  ASSERT_TRUE(child->WaitForExit(kWait));
  ASSERT_FALSE(child->LastOutputLines().empty());
  EXPECT_THAT(child->LastOutputLines()[0], ::testing::StartsWith("theirs "));
}

TEST(ChildProcessTest, DoesNotWaitForGrandchildrenThatHoldThePipes) {
  ASSERT_OK_AND_ASSIGN(auto child, ChildProcess::Start(Shell("sleep 30 & echo gone")));
  EXPECT_TRUE(child->WaitForExit(absl::Seconds(10)));
  EXPECT_THAT(child->LastOutputLines(), ElementsAre("gone"));
}

TEST(ChildProcessTest, DestructionKills) {
  pid_t pid;
  {
    ASSERT_OK_AND_ASSIGN(auto child, ChildProcess::Start(Shell("exec sleep 60")));
    pid = child->pid();
  }
  EXPECT_EQ(kill(pid, 0), -1);
}

// The child's child dies when the process that started it is killed with SIGKILL.
TEST(ChildProcessTest, DiesWithItsParent) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const pid_t parent = fork();
  ASSERT_GE(parent, 0);
  if (parent == 0) {
    auto child = ChildProcess::Start(Shell("exec sleep 60"));
    const pid_t pid = child.ok() ? (*child)->pid() : -1;
    if (write(ends[1], &pid, sizeof(pid)) != sizeof(pid)) _exit(1);
    while (true) pause();
  }
  pid_t grandchild = -1;
  ASSERT_EQ(read(ends[0], &grandchild, sizeof(grandchild)), ssize_t{sizeof(grandchild)});
  close(ends[0]);
  close(ends[1]);
  ASSERT_GT(grandchild, 0);
  ASSERT_EQ(kill(grandchild, 0), 0);
  kill(parent, SIGKILL);
  waitpid(parent, nullptr, 0);
  // Reaped by init, or left a zombie where init does not reap: either way it no longer sleeps.
  EXPECT_TRUE(WaitFor([&] {
    char state = 'X';
    const std::string path = "/proc/" + std::to_string(grandchild) + "/stat";
    if (FILE* file = fopen(path.c_str(), "r")) {
      if (fscanf(file, "%*d %*s %c", &state) != 1) state = 'X';
      fclose(file);
    }
    return state == 'X' || state == 'Z';
  }));
}

}  // namespace
}  // namespace d2g::common

// The supervisor with real processes: shell scripts that behave like our programs.
#include "cli/supervisor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <sstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "cli/data_dir_lock.h"

namespace d2g::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Writes ports (its own pid stands for a free port when 0 is asked for) and waits for SIGTERM.
constexpr char kServer[] = R"sh(
trap 'echo "$0 stops" >> "$1"; exit 0' TERM
port=$3; [ "$port" != 0 ] || port=$$
echo "$0 on $port" >> "$1"
echo "{\"grpc\": $port, \"admin\": 1}" > "$2.tmp" && mv "$2.tmp" "$2"
while :; do sleep 0.02; done
)sh";

class SupervisorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = absl::StrCat(::testing::TempDir(), "/supervisor_test.", getpid());
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directories(dir_);
    sigprocmask(SIG_SETMASK, nullptr, &mask_);
    BlockSupervisorSignals();
  }
  void TearDown() override {
    // A signal that was sent but not taken must not hit the test when the mask goes.
    sigset_t all;
    sigfillset(&all);
    const timespec none = {};
    while (sigtimedwait(&all, nullptr, &none) > 0) {
    }
    sigprocmask(SIG_SETMASK, &mask_, nullptr);
    std::filesystem::remove_all(dir_);
  }

  std::string Events() const {
    std::ifstream in(dir_ + "/events");
    std::stringstream text;
    text << in.rdbuf();
    return text.str();
  }

  MemberSpec Script(const std::string& name, int stage, const std::string& script) const {
    return {.name = name,
            .stage = stage,
            .grace = absl::Milliseconds(500),
            .argv = [this, name, script](const common::Ports& ports, const std::string& port_file,
                                         const AddressBook&) -> std::vector<std::string> {
              return {"/bin/bash",
                      "-c",
                      script,
                      name,
                      dir_ + "/events",
                      port_file,
                      absl::StrCat(ports.grpc)};
            }};
  }

  SupervisorOptions Options() {
    return {.data_dir = dir_,
            .start_timeout = absl::Seconds(20),
            .report = [this](const std::string& line) { reports_.push_back(line); }};
  }

  std::string dir_;
  std::vector<std::string> reports_;
  sigset_t mask_;
};

// Runs `act` beside Supervisor::Run, then stops it. `act` must not fork.
void RunWhile(Supervisor& supervisor, const std::function<void()>& act) {
  const pthread_t runner = pthread_self();
  std::thread actor([&] {
    act();
    pthread_kill(runner, SIGTERM);
  });
  EXPECT_EQ(supervisor.Run(), SIGTERM);
  actor.join();
}

bool WaitFor(const std::function<bool()>& condition) {
  for (const absl::Time deadline = absl::Now() + absl::Seconds(20); absl::Now() < deadline;) {
    if (condition()) return true;
    absl::SleepFor(absl::Milliseconds(5));
  }
  return false;
}

bool IsGone(pid_t pid) { return kill(pid, 0) != 0 && errno == ESRCH; }

TEST_F(SupervisorTest, StartsInOrderAndStopsInReverse) {
  Supervisor supervisor(Options(), {Script("a", 0, kServer), Script("b", 1, kServer)},
                        common::RealClock::Get());
  ASSERT_TRUE(supervisor.Start().ok());
  const auto file = ReadClusterFile(dir_);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->pid, getpid());
  EXPECT_EQ(file->coordinator, absl::StrCat("127.0.0.1:", file->processes[0].pid));
  supervisor.Stop();
  const std::string a = absl::StrCat("a on ", file->processes[0].pid, "\n");
  const std::string b = absl::StrCat("b on ", file->processes[1].pid, "\n");
  EXPECT_EQ(Events(), a + b + "b stops\na stops\n");
  EXPECT_EQ(ReadClusterFile(dir_).status().code(), absl::StatusCode::kNotFound);
  for (const auto& process : file->processes) EXPECT_TRUE(IsGone(process.pid));
}

TEST_F(SupervisorTest, RestartsAKilledMemberOnItsPort) {
  Supervisor supervisor(Options(), {Script("a", 0, kServer)}, common::RealClock::Get());
  ASSERT_TRUE(supervisor.Start().ok());
  const ClusterFile before = supervisor.Describe();
  RunWhile(supervisor, [&] {
    kill(before.processes[0].pid, SIGKILL);
    EXPECT_TRUE(WaitFor([&] {
      const auto now = ReadClusterFile(dir_);
      return now.ok() && now->processes[0].restarts == 1 &&
             std::filesystem::exists(dir_ + "/run/a.ports.json");
    }));
  });
  const ClusterFile after = supervisor.Describe();
  EXPECT_NE(after.processes[0].pid, before.processes[0].pid);
  EXPECT_EQ(after.coordinator, before.coordinator);
  const std::string on = absl::StrCat("a on ", before.processes[0].pid, "\n");
  EXPECT_EQ(Events(), on + on);
  EXPECT_THAT(reports_, ElementsAre(HasSubstr("a ended (signal 9 (Killed)); starting it again")));
}

TEST_F(SupervisorTest, ADrainedMemberIsStartedAgainWithoutGrowingDelay) {
  // Drains by itself each time, as if somebody told it to.
  const std::string drains =
      "echo '{\"grpc\": 5, \"admin\": 1}' > \"$2.tmp\" && mv \"$2.tmp\" \"$2\"; sleep 0.05; exit "
      "75";
  Supervisor supervisor(Options(), {Script("a", 0, drains)}, common::RealClock::Get());
  ASSERT_TRUE(supervisor.Start().ok());
  const absl::Time begin = absl::Now();
  RunWhile(supervisor, [&] {
    EXPECT_TRUE(WaitFor([&] {
      const auto now = ReadClusterFile(dir_);
      return now.ok() && now->processes[0].restarts >= 8;
    }));
  });
  // Eight delays that grow by 1.7 from 0.25 s would take 25 s, or half of that with jitter.
  EXPECT_LT(absl::Now() - begin, absl::Seconds(10));
  EXPECT_THAT(reports_.front(), HasSubstr("a was drained (exit code 75); starting it again"));
}

TEST_F(SupervisorTest, ReapsWhatAMemberLeavesBehind) {
  // Two children that outlive the shell that started them, one beside and one before the server.
  const std::string leaves = R"sh((sleep 0.2 & echo $! >> "$1.orphans")
(sh -c 'echo $$ >> "$0.orphans"' "$1" &)
)sh" + std::string(kServer);
  Supervisor supervisor(Options(), {Script("a", 0, leaves)}, common::RealClock::Get());
  ASSERT_TRUE(supervisor.Start().ok());
  RunWhile(supervisor, [&] {
    std::vector<pid_t> orphans;
    ASSERT_TRUE(WaitFor([&] {
      std::ifstream in(dir_ + "/events.orphans");
      orphans.assign(std::istream_iterator<pid_t>(in), {});
      return orphans.size() == 2;
    }));
    // A zombie still takes signals.
    for (const pid_t orphan : orphans) {
      EXPECT_TRUE(WaitFor([&] { return IsGone(orphan); })) << orphan;
    }
  });
  EXPECT_EQ(supervisor.Describe().processes[0].restarts, 0);
}

TEST_F(SupervisorTest, AFailedStartStopsTheRestAndShowsTheLog) {
  Supervisor supervisor(
      Options(), {Script("a", 0, kServer), Script("b", 1, "echo 'port 7 is in use' >&2; exit 3")},
      common::RealClock::Get());
  const absl::Status status = supervisor.Start();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("b ended while starting (exit code 3)"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("port 7 is in use"));
  EXPECT_THAT(Events(), HasSubstr("a stops"));
}

TEST_F(SupervisorTest, NamesAProgramThatIsMissing) {
  MemberSpec missing = Script("a", 0, "");
  missing.argv = [](const common::Ports&, const std::string&, const AddressBook&) {
    return std::vector<std::string>{"/nowhere/d2g-coordinator"};
  };
  Supervisor supervisor(Options(), {missing}, common::RealClock::Get());
  EXPECT_EQ(supervisor.Start(),
            absl::NotFoundError("cannot run /nowhere/d2g-coordinator: No such file or directory"));
}

TEST_F(SupervisorTest, KillsWhatDoesNotStopInItsGrace) {
  const std::string deaf =
      "trap '' TERM; echo '{\"grpc\": 5, \"admin\": 1}' > \"$2\"; while :; do sleep 0.02; done";
  Supervisor supervisor(Options(), {Script("a", 0, deaf)}, common::RealClock::Get());
  ASSERT_TRUE(supervisor.Start().ok());
  const pid_t pid = supervisor.Describe().processes[0].pid;
  const absl::Time begin = absl::Now();
  supervisor.Stop();
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(500));
  EXPECT_TRUE(IsGone(pid));
}

TEST_F(SupervisorTest, ChildrenDieWithTheSupervisor) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const pid_t supervising = fork();
  if (supervising == 0) {
    Supervisor supervisor(Options(), {Script("a", 0, kServer)}, common::RealClock::Get());
    if (!supervisor.Start().ok()) _exit(1);
    const pid_t child = supervisor.Describe().processes[0].pid;
    [[maybe_unused]] const ssize_t written = write(ends[1], &child, sizeof(child));
    for (;;) pause();
  }
  pid_t child = 0;
  ASSERT_EQ(read(ends[0], &child, sizeof(child)), static_cast<ssize_t>(sizeof(child)));
  EXPECT_FALSE(IsGone(child));
  kill(supervising, SIGKILL);
  waitpid(supervising, nullptr, 0);
  EXPECT_TRUE(WaitFor([&] {
    if (IsGone(child)) return true;
    // In a container whose init reaps slowly the orphan may stay a zombie.
    std::ifstream stat(absl::StrCat("/proc/", child, "/stat"));
    std::string text;
    std::getline(stat, text);
    return text.find(") Z ") != std::string::npos;
  }));
  close(ends[0]);
  close(ends[1]);
}

TEST_F(SupervisorTest, OneClusterADataFolder) {
  const auto first = DataDirLock::Take(dir_);
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = DataDirLock::Take(dir_);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("is in use by a running cluster"));
}

}  // namespace
}  // namespace d2g::cli

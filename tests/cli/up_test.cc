// d2g up and d2g down with the real coordinator, stores and trainer (workers need LibTorch).
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cli/cluster_file.h"
#include "services/common/rpc_server.h"
#include "tests/testing/http_get.h"
#include "tests/testing/process.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tmpfs.h"
#include "tests/testing/wait.h"

namespace d2g {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::Process;
using testing::RunProcess;
using testing::WaitFor;

class UpTest : public ::testing::Test {
 protected:
  std::vector<std::string> UpCommand(int shards = 2) const {
    return {"d2g",       "up", "--data-dir", dir_.path(),
            "--workers", "0",  "--shards",   absl::StrCat(shards)};
  }
  static bool IsUp(const Process& up) {
    return up.Output().find("stop it with") != std::string::npos;
  }
  cli::ClusterFile Cluster() const {
    return cli::ReadClusterFile(dir_.path()).value_or(cli::ClusterFile{});
  }
  static int PortOf(const std::string& address) {
    return std::stoi(address.substr(address.rfind(':') + 1));
  }

  testing::TempDir dir_;
};

TEST_F(UpTest, StartsRestartsAndStops) {
  Process up(UpCommand());
  ASSERT_TRUE(WaitFor([&] { return IsUp(up); }, absl::Seconds(60))) << up.Output();
  const cli::ClusterFile before = Cluster();
  ASSERT_EQ(before.processes.size(), 4u);
  for (const auto& member : before.processes) {
    EXPECT_THAT(testing::HttpGet(PortOf(member.admin), "/healthz"), HasSubstr("200 OK"))
        << member.name;
  }
  EXPECT_EQ(RunProcess({"d2g", "jobs", "--data-dir", dir_.path()}).code, 0);

  // A second one on the same folder is refused and changes nothing.
  const auto second = RunProcess(UpCommand());
  EXPECT_EQ(second.code, 3) << second.output;
  EXPECT_THAT(second.output,
              AllOf(HasSubstr("is in use by a running cluster"), HasSubstr(before.coordinator)));

  // Whoever is killed comes back where it was.
  for (const char* name : {"coordinator", "store-1"}) {
    const auto find = [&](const cli::ClusterFile& cluster) {
      for (const auto& member : cluster.processes) {
        if (member.name == name) return member;
      }
      return cli::ClusterMember{};
    };
    const cli::ClusterMember victim = find(Cluster());
    ASSERT_GT(victim.pid, 0) << name;
    kill(victim.pid, SIGKILL);
    EXPECT_TRUE(WaitFor([&] {
      const cli::ClusterMember now = find(Cluster());
      return now.restarts == 1 && now.pid != victim.pid &&
             testing::HttpGet(PortOf(victim.admin), "/healthz").find("200 OK") != std::string::npos;
    })) << name
        << up.Output();
    EXPECT_EQ(find(Cluster()).grpc, victim.grpc);
    EXPECT_THAT(up.Output(), HasSubstr(absl::StrCat(name, " ended (signal 9 (Killed))")));
  }
  EXPECT_EQ(RunProcess({"d2g", "jobs", "--data-dir", dir_.path()}).code, 0);

  const cli::ClusterFile last = Cluster();
  EXPECT_EQ(RunProcess({"d2g", "down", "--data-dir", dir_.path()}).code, 0);
  EXPECT_EQ(up.Wait().code, 0);
  for (const auto& member : last.processes) {
    EXPECT_TRUE(kill(member.pid, 0) != 0 && errno == ESRCH) << member.name;
  }
  EXPECT_FALSE(std::filesystem::exists(cli::ClusterFilePath(dir_.path())));
  EXPECT_THAT(RunProcess({"d2g", "down", "--data-dir", dir_.path()}).output,
              HasSubstr("no cluster is running"));

  // The number of shards is frozen.
  const auto fewer = RunProcess(UpCommand(/*shards=*/1));
  EXPECT_EQ(fewer.code, 3);
  EXPECT_THAT(fewer.output, AllOf(HasSubstr("--shards 1"), HasSubstr("holds 2 shards")));
  const auto more = RunProcess(UpCommand(/*shards=*/3));
  EXPECT_EQ(more.code, 3);
  EXPECT_THAT(more.output, AllOf(HasSubstr("was made for 2 shards"), HasSubstr("--shards 3")));
}

TEST_F(UpTest, GoesOnWhereTheFirstStartWasInterrupted) {
  // The coordinator runs first; not every shard has made its folder yet.
  std::filesystem::create_directory(dir_.File("store-0"));
  Process up(UpCommand());
  EXPECT_TRUE(WaitFor([&] { return IsUp(up); }, absl::Seconds(60))) << up.Output();
  EXPECT_EQ(RunProcess({"d2g", "down", "--data-dir", dir_.path()}).code, 0);
  EXPECT_EQ(up.Wait().code, 0);
}

TEST_F(UpTest, AWrongCommandLineSaysWhyAndLeavesNothingBehind) {
  const std::string folder = dir_.File("new");
  const auto up = [&](std::vector<std::string> flags) {
    flags.insert(flags.begin(), {"d2g", "up", "--workers", "0", "--data-dir", folder});
    const auto result = RunProcess(flags);
    EXPECT_THAT(result.output, Not(HasSubstr("cluster is up")));
    EXPECT_FALSE(std::filesystem::exists(folder)) << result.output;
    return result;
  };
  const auto no_programs = up({"--bin-dir", dir_.File("empty")});
  EXPECT_EQ(no_programs.code, 3);
  EXPECT_THAT(no_programs.output, HasSubstr("cannot run " + dir_.File("empty/d2g-coordinator")));
  const auto no_device = up({"--device", "tpu"});
  EXPECT_EQ(no_device.code, 2);
  EXPECT_THAT(no_device.output, HasSubstr("'tpu' is none of cpu, cuda, cuda:N and auto"));
}

TEST_F(UpTest, ADataFolderThatIsNoneIsRefused) {
  for (const char* command : {"up", "down", "jobs", "doctor"}) {
    const auto empty = RunProcess({"d2g", command, "--data-dir", ""});
    EXPECT_EQ(empty.code, 2) << command << empty.output;
    EXPECT_THAT(empty.output, HasSubstr("--data-dir: it is empty")) << command;
  }
  const std::string in_deleted_folder =
      absl::StrCat("mkdir ", dir_.File("gone"), " && cd ", dir_.File("gone"), " && rmdir ",
                   dir_.File("gone"), " && exec ", std::getenv("D2G_BIN_DIR"), "/d2g ");
  const auto up = RunProcess({"/bin/sh", "-c", in_deleted_folder + "up --data-dir x"});
  EXPECT_EQ(up.code, 3) << up.output;
  EXPECT_THAT(up.output, HasSubstr("x: is relative, and the current folder cannot be told"));
  std::ofstream(dir_.File("job.yaml")) << "output_dir: out\n";
  const auto submit = RunProcess(
      {"/bin/sh", "-c", in_deleted_folder + "submit --set output_dir=y " + dir_.File("job.yaml")});
  EXPECT_EQ(submit.code, 3) << submit.output;
}

TEST_F(UpTest, KeepsItsPortsAsFarAsTheyAreFree) {
  const auto once = [&] {
    Process up(UpCommand(/*shards=*/1));
    EXPECT_TRUE(WaitFor([&] { return IsUp(up); }, absl::Seconds(60))) << up.Output();
    const cli::ClusterFile cluster = Cluster();
    const auto down = RunProcess({"d2g", "down", "--data-dir", dir_.path()});
    EXPECT_EQ(down.code, 0);
    EXPECT_THAT(down.output, HasSubstr("is stopped"));
    EXPECT_EQ(up.Wait().code, 0);
    return cluster;
  };
  const cli::ClusterFile first = once();
  const cli::ClusterFile second = once();
  ASSERT_EQ(first.processes.size(), second.processes.size());
  for (size_t k = 0; k < first.processes.size(); ++k) {
    EXPECT_EQ(first.processes[k].grpc, second.processes[k].grpc) << first.processes[k].name;
    EXPECT_EQ(first.processes[k].admin, second.processes[k].admin) << first.processes[k].name;
  }
  // Somebody else has the coordinator's port now.
  const auto taken = common::RpcServer::Start(second.coordinator, {}, {});
  ASSERT_TRUE(taken.ok()) << taken.status();
  const cli::ClusterFile third = once();
  EXPECT_NE(third.coordinator, second.coordinator);
  EXPECT_EQ(third.processes[1].grpc, second.processes[1].grpc);
}

TEST_F(UpTest, ADataFolderThatCannotBeWrittenIsBadInput) {
  // A file where a folder belongs, and a log that leads nowhere.
  std::filesystem::create_directories(dir_.File("a"));
  std::ofstream(dir_.File("a/logs")) << "notes";
  std::filesystem::create_directories(dir_.File("b/logs"));
  std::filesystem::create_symlink("nowhere/x", dir_.File("b/logs/coordinator.log"));
  for (const auto& [folder, culprit] :
       {std::pair("a", "a/logs: "), std::pair("b", "b/logs/coordinator.log: ")}) {
    const auto result =
        RunProcess({"d2g", "up", "--data-dir", dir_.File(folder), "--workers", "0"});
    EXPECT_EQ(result.code, 3) << result.output;
    EXPECT_THAT(result.output, HasSubstr(dir_.File(culprit)));
    EXPECT_FALSE(std::filesystem::exists(cli::ClusterFilePath(dir_.File(folder))));
  }
}

// The process whose parent is `parent`, which has one child, from /proc; 0 when there is none.
pid_t ChildOf(pid_t parent) {
  std::ifstream children(absl::StrCat("/proc/", parent, "/task/", parent, "/children"));
  pid_t child = 0;
  children >> child;
  return child;
}

// How many children of a process have ended and were not reaped.
int CountZombies(pid_t parent) {
  int zombies = 0;
  std::ifstream children(absl::StrCat("/proc/", parent, "/task/", parent, "/children"));
  for (pid_t child = 0; children >> child;) {
    std::ifstream in(absl::StrCat("/proc/", child, "/stat"));
    const std::string stat(std::istreambuf_iterator<char>(in), {});
    const size_t name_end = stat.rfind(')');
    zombies += name_end != std::string::npos && stat.compare(name_end, 3, ") Z") == 0 ? 1 : 0;
  }
  return zombies;
}

TEST_F(UpTest, AsPid1ItReapsOrphans) {
  const std::vector<std::string> own_pids = {"/usr/bin/unshare", "--pid", "--fork", "--mount-proc",
                                             "--kill-child"};
  auto probe = own_pids;
  probe.push_back("true");
  if (const auto tried = RunProcess(probe); tried.code != 0) {
    GTEST_SKIP() << "a PID namespace needs root: " << tried.output;
  }
  // A trainer that leaves a child behind, as one that is killed leaves its ranks.
  const std::string bin = dir_.File("bin");
  std::filesystem::create_directory(bin);
  const std::string real = std::filesystem::absolute(getenv("D2G_BIN_DIR"));
  for (const char* program : {"d2g-coordinator", "d2g-store"}) {
    std::filesystem::create_symlink(real + "/" + program, bin + "/" + program);
  }
  const std::string mark = dir_.File("orphan-ended");
  std::ofstream(bin + "/d2g-trainer")
      << "#!/bin/sh\n(sh -c 'echo > " << mark << "' &)\nexec " << real << "/d2g-trainer \"$@\"\n";
  std::filesystem::permissions(bin + "/d2g-trainer", std::filesystem::perms::owner_all);
  auto command = own_pids;
  command.push_back(real + "/d2g");
  const auto up_command = UpCommand(/*shards=*/1);
  command.insert(command.end(), up_command.begin() + 1, up_command.end());
  command.insert(command.end(), {"--bin-dir", bin});
  Process up(command);
  ASSERT_TRUE(WaitFor([&] { return IsUp(up); }, absl::Seconds(60))) << up.Output();
  ASSERT_TRUE(WaitFor([&] { return std::filesystem::exists(mark); }));
  const pid_t supervisor = ChildOf(up.pid());
  ASSERT_GT(supervisor, 0);
  EXPECT_TRUE(WaitFor([&] { return CountZombies(supervisor) == 0; }, absl::Seconds(10)));
  kill(supervisor, SIGTERM);
  EXPECT_EQ(up.Wait().code, 0);
}

TEST_F(UpTest, AReadOnlyDiskIsNamed) {
  testing::Tmpfs volume("48m");
  if (!volume.mounted()) GTEST_SKIP() << "mounting needs root";
  const auto up_on = [](const std::string& folder) {
    return std::vector<std::string>{"d2g", "up", "--data-dir", folder, "--workers", "0"};
  };
  const std::string used = volume.path() + "/used";
  {
    Process up(up_on(used));
    ASSERT_TRUE(WaitFor([&] { return IsUp(up); }, absl::Seconds(60))) << up.Output();
    EXPECT_EQ(RunProcess({"d2g", "down", "--data-dir", used}).code, 0);
    EXPECT_EQ(up.Wait().code, 0);
  }
  ASSERT_TRUE(volume.MakeReadOnly());
  for (const std::string& folder : {used, volume.path() + "/new"}) {
    const auto result = RunProcess(up_on(folder));
    EXPECT_EQ(result.code, 3) << result.output;
    EXPECT_THAT(result.output, AllOf(HasSubstr(folder), HasSubstr("Read-only file system")));
  }
}

}  // namespace
}  // namespace d2g

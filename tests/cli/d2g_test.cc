// The real d2g against a real coordinator: what it prints, how it ends, and what it leaves alone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "cli/cluster_file.h"
#include "services/common/port_file.h"
#include "tests/testing/process.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_folder.h"
#include "tests/testing/tmpfs.h"
#include "tests/testing/wait.h"

namespace d2g {
namespace {

using ::testing::AllOf;
using testing::ExitResult;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::Process;
using testing::RunProcess;
using ::testing::StartsWith;
using testing::TempDir;
using testing::WaitFor;

// Exit codes as the user guide documents them.
constexpr int kOk = 0, kFailure = 1, kUsage = 2, kBadInput = 3, kCannotReach = 4, kJobFailed = 5;

constexpr char kJob[] = R"(display_name: sample
teacher: {path: teacher}
prompts: {path: prompts.txt}
simulate:
  triples: 64
  block_size: 16
  holdout_every: 4
train:
  steps: 10
  global_batch: 4
output_dir: output
)";

// Path -> content of every file under a folder.
std::map<std::string, std::string> FilesUnder(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    std::stringstream content;
    if (entry.is_regular_file()) content << std::ifstream(entry.path()).rdbuf();
    files[entry.path().string()] = content.str();
  }
  return files;
}

class D2gTest : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::WriteTinyFolder(Input("teacher"));
    testing::WriteText(Input("prompts.txt"), "a red shoe\na blue shoe\n");
    WriteJob(kJob);
    StartCoordinator();
  }

  std::string Input(const std::string& name) const { return dir_.File("in/" + name); }
  void WriteJob(const std::string& text) { testing::WriteText(Input("job.yaml"), text); }

  void StartCoordinator() {
    const std::string port_file = dir_.File("ports.json");
    std::filesystem::remove(port_file);
    coordinator_ = std::make_unique<Process>(std::vector<std::string>{
        "d2g-coordinator", "--listen", absl::StrCat("127.0.0.1:", port_), "--data-dir",
        dir_.File("coordinator"), "--shards", "1", "--port-file", port_file});
    ASSERT_TRUE(WaitFor([&] {
      const auto ports = common::ReadPortFile(port_file);
      if (ports.ok()) port_ = ports->grpc;
      return ports.ok();
    })) << coordinator_->Output();
  }

  std::string Address() const { return absl::StrCat("127.0.0.1:", port_); }

  std::vector<std::string> Command(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), "d2g");
    arguments.insert(arguments.end(), {"--coordinator", Address()});
    return arguments;
  }
  ExitResult D2g(std::vector<std::string> arguments) const {
    return RunProcess(Command(std::move(arguments)));
  }

  // Submits and expects one line of error, that nothing was stored and that no file changed.
  std::string SubmitBadJob() {
    const auto before = FilesUnder(dir_.File("in"));
    const ExitResult result = D2g({"submit", Input("job.yaml")});
    EXPECT_EQ(result.code, kBadInput) << result.output;
    EXPECT_THAT(result.output, StartsWith("d2g: " + Input("job.yaml")));
    EXPECT_EQ(result.output.find('\n'), result.output.size() - 1) << result.output;
    EXPECT_EQ(FilesUnder(dir_.File("in")), before);
    EXPECT_THAT(D2g({"jobs"}).output, Not(HasSubstr("jobs/")));
    return result.output;
  }

  std::string SubmitGoodJob() {
    const ExitResult result = D2g({"submit", Input("job.yaml")});
    EXPECT_EQ(result.code, kOk) << result.output;
    EXPECT_THAT(result.output, StartsWith("jobs/"));
    return std::string(absl::StripSuffix(result.output, "\n"));
  }

  TempDir dir_;
  int port_ = 0;
  std::unique_ptr<Process> coordinator_;
};

TEST_F(D2gTest, UnknownField) {
  WriteJob(absl::StrReplaceAll(kJob, {{"steps: 10", "stpes: 10"}}));
  EXPECT_THAT(SubmitBadJob(), HasSubstr(":9: train.stpes: unknown field; did you mean 'steps'?"));
}

TEST_F(D2gTest, NegativeCountsNameValueAndLimit) {
  WriteJob(
      absl::StrReplaceAll(kJob, {{"triples: 64", "triples: -64"}, {"steps: 10", "steps: -1"}}));
  EXPECT_THAT(SubmitBadJob(), AllOf(HasSubstr("simulate.triples: -64"), HasSubstr("1000000000"),
                                    HasSubstr("train.steps: -1"), HasSubstr("100000000")));
}

TEST_F(D2gTest, TeacherWithAMissingFile) {
  std::filesystem::remove(Input("teacher/vae/diffusion_pytorch_model.safetensors"));
  EXPECT_THAT(SubmitBadJob(), AllOf(HasSubstr("teacher.path: "),
                                    HasSubstr("vae/diffusion_pytorch_model.safetensors")));
}

TEST_F(D2gTest, TeacherWithATruncatedFile) {
  const std::string file = Input("teacher/unet/diffusion_pytorch_model.safetensors");
  const auto size = std::filesystem::file_size(file);
  std::filesystem::resize_file(file, size - 5);
  EXPECT_THAT(SubmitBadJob(),
              AllOf(HasSubstr("teacher.path: "), HasSubstr(file), HasSubstr(absl::StrCat(size)),
                    HasSubstr(absl::StrCat(size - 5))));
}

TEST_F(D2gTest, PromptListWithAnEmptyLine) {
  testing::WriteText(Input("prompts.txt"), "a shoe\n\na coat\n");
  EXPECT_THAT(SubmitBadJob(), AllOf(HasSubstr("prompts.txt"), HasSubstr("line 2 is empty")));
}

TEST_F(D2gTest, PromptListWithAnOverlongLine) {
  testing::WriteText(Input("prompts.txt"), "a shoe\n" + std::string(1001, 'x') + "\n");
  EXPECT_THAT(SubmitBadJob(), HasSubstr("line 2 has 1001 bytes; the limit is 1000"));
}

TEST_F(D2gTest, PromptListThatIsTooLarge) {
  // Sparse: it is refused by its size, before it is read.
  testing::WriteText(Input("prompts.txt"), "a shoe\n");
  std::filesystem::resize_file(Input("prompts.txt"), (256 << 20) + 1);
  const ExitResult result = D2g({"submit", Input("job.yaml")});
  EXPECT_EQ(result.code, kBadInput) << result.output;
  EXPECT_THAT(result.output, AllOf(StartsWith("d2g: " + Input("job.yaml")),
                                   HasSubstr("prompts.path: " + Input("prompts.txt")),
                                   HasSubstr("268435457 bytes"), HasSubstr("268435456")));
  EXPECT_THAT(D2g({"jobs"}).output, Not(HasSubstr("jobs/")));
}

TEST_F(D2gTest, FilesThatAreNotThere) {
  std::filesystem::remove(Input("prompts.txt"));
  EXPECT_THAT(SubmitBadJob(), HasSubstr("prompts.path: " + Input("prompts.txt")));
  std::filesystem::remove(Input("job.yaml"));
  const ExitResult result = D2g({"submit", Input("job.yaml")});
  EXPECT_EQ(result.code, kBadInput);
  EXPECT_THAT(result.output, HasSubstr(Input("job.yaml")));
}

TEST_F(D2gTest, OutputFolderOnAReadOnlyDisk) {
  testing::Tmpfs volume("1m");
  if (!volume.mounted()) GTEST_SKIP() << "mounting needs root";
  ASSERT_TRUE(volume.MakeReadOnly());
  const std::string output = volume.path() + "/output";
  WriteJob(absl::StrReplaceAll(kJob, {{"output_dir: output", "output_dir: " + output}}));
  EXPECT_THAT(SubmitBadJob(),
              AllOf(HasSubstr("output_dir: "), HasSubstr(output), HasSubstr("cannot be written"),
                    HasSubstr("Read-only file system")));
}

TEST_F(D2gTest, PortInUse) {
  const ExitResult result =
      RunProcess({"d2g", "up", "--data-dir", dir_.File("new"), "--port", absl::StrCat(port_)});
  EXPECT_EQ(result.code, kBadInput);
  EXPECT_THAT(result.output, AllOf(StartsWith(absl::StrCat("d2g: --port ", port_, ": ")),
                                   HasSubstr("Address already in use")));
  EXPECT_FALSE(std::filesystem::exists(dir_.File("new")));
}

TEST_F(D2gTest, WrongCoordinatorAddress) {
  port_ = 1;  // nobody listens there
  const ExitResult nobody = D2g({"jobs"});
  EXPECT_EQ(nobody.code, kCannotReach);
  EXPECT_THAT(nobody.output, StartsWith("d2g: cannot reach the coordinator at 127.0.0.1:1 (from "
                                        "--coordinator)"));
  const ExitResult nonsense = RunProcess({"d2g", "jobs", "--coordinator", "nonsense"});
  EXPECT_EQ(nonsense.code, kBadInput);
  EXPECT_THAT(nonsense.output, HasSubstr("nonsense"));
  const ExitResult none = RunProcess({"d2g", "jobs", "--data-dir", dir_.File("new")});
  EXPECT_EQ(none.code, kCannotReach);
  EXPECT_THAT(none.output, HasSubstr("start one with d2g up"));
  EXPECT_FALSE(std::filesystem::exists(dir_.File("new")));
}

TEST_F(D2gTest, UnknownJob) {
  for (const char* command : {"describe", "watch", "cancel", "verify"}) {
    const ExitResult result = D2g({command, "nobody"});
    EXPECT_EQ(result.code, kBadInput) << command << ": " << result.output;
    EXPECT_THAT(result.output, HasSubstr("jobs/nobody"));
  }
}

TEST_F(D2gTest, ValidateOnlyStoresNothing) {
  const ExitResult result = D2g({"submit", Input("job.yaml"), "--validate-only"});
  EXPECT_EQ(result.code, kOk) << result.output;
  EXPECT_THAT(result.output, HasSubstr("is a valid job"));
  EXPECT_THAT(D2g({"jobs"}).output, Not(HasSubstr("jobs/")));
}

TEST_F(D2gTest, TheSameRequestIdGivesTheSameJob) {
  const std::vector<std::string> submit = {"submit", Input("job.yaml"), "--request-id", "r1"};
  const std::string first = D2g(submit).output;
  EXPECT_THAT(first, StartsWith("jobs/"));
  EXPECT_EQ(D2g(submit).output, first);
  const ExitResult changed = D2g(
      {"submit", Input("job.yaml"), "--request-id", "r1", "--set", "train.learning_rate=0.0625"});
  EXPECT_EQ(changed.code, kBadInput);
  EXPECT_THAT(changed.output, AllOf(HasSubstr("spec.train.learning_rate is "),
                                    HasSubstr(" there and 0.0625 here")));
  // Another job may not write where this one does.
  const ExitResult second = D2g({"submit", Input("job.yaml")});
  EXPECT_EQ(second.code, kBadInput);
  EXPECT_THAT(second.output, AllOf(HasSubstr("output_dir: "), HasSubstr("is in use by jobs/")));
}

TEST_F(D2gTest, OverwriteTakesTheFolderOfAnEndedJob) {
  const std::string job = SubmitGoodJob();
  EXPECT_EQ(D2g({"cancel", job}).code, kOk);
  testing::WriteText(Input("output/d2g-job.json"), "{\"job\": \"" + job + "\"}");
  const ExitResult refused = D2g({"submit", Input("job.yaml")});
  EXPECT_EQ(refused.code, kBadInput);
  EXPECT_THAT(refused.output, AllOf(HasSubstr("output_dir: "), HasSubstr(job)));
  const ExitResult taken = D2g({"submit", Input("job.yaml"), "--overwrite"});
  EXPECT_EQ(taken.code, kOk) << taken.output;
}

TEST_F(D2gTest, ShowsAndSteersAJob) {
  const std::string job = SubmitGoodJob();
  EXPECT_THAT(D2g({"jobs"}).output, AllOf(HasSubstr(job), HasSubstr("sample"), HasSubstr("running"),
                                          HasSubstr("0 / 64 triples")));
  EXPECT_THAT(D2g({"describe", job}).output,
              AllOf(HasSubstr(Input("teacher")), HasSubstr("0 / 10 steps"),
                    HasSubstr("1 of 1 shards down")));
  EXPECT_THAT(D2g({"describe", job, "--json"}).output,
              AllOf(HasSubstr(R"("state": "STATE_RUNNING")"), HasSubstr(R"("triples": "64")")));
  EXPECT_EQ(D2g({"describe", job, "--section", "evaluation"}).code, kBadInput);
  EXPECT_THAT(D2g({"pause", job}).output, HasSubstr(job + " is paused"));
  EXPECT_THAT(D2g({"resume", job}).output, HasSubstr(job + " is running"));
  EXPECT_THAT(D2g({"cancel", job}).output, HasSubstr(job + " is cancelled"));
  const ExitResult watched = D2g({"watch", job});
  EXPECT_EQ(watched.code, kJobFailed);
  EXPECT_THAT(watched.output, HasSubstr("cancelled"));
  const ExitResult too_late = D2g({"resume", job});
  EXPECT_EQ(too_late.code, kBadInput);
  EXPECT_THAT(too_late.output, HasSubstr(job));
}

TEST_F(D2gTest, WatchOutlivesTheCoordinator) {
  const std::string job = SubmitGoodJob();
  Process watch(Command({"watch", job, "--state-file", dir_.File("seen.json")}));
  ASSERT_TRUE(WaitFor([&] { return std::filesystem::exists(dir_.File("seen.json")); }))
      << watch.Output();
  coordinator_->Signal(SIGKILL);
  coordinator_->Wait();
  StartCoordinator();  // on the same port
  EXPECT_TRUE(watch.Running()) << watch.Output();
  EXPECT_EQ(D2g({"cancel", job}).code, kOk);
  const ExitResult result = watch.Wait();
  EXPECT_EQ(result.code, kJobFailed) << result.output;
  EXPECT_THAT(result.output, HasSubstr("cancelled"));
}

TEST_F(D2gTest, AFlagWinsOverTheEnvironment) {
  // A cluster file that leads to the coordinator, and a variable that leads nowhere.
  cli::ClusterFile cluster;
  cluster.data_dir = dir_.path();
  cluster.coordinator = Address();
  ASSERT_TRUE(cli::WriteClusterFile(cluster).ok());
  setenv("D2G_COORDINATOR", "127.0.0.1:1", /*overwrite=*/1);
  const ExitResult chosen = RunProcess({"d2g", "jobs", "--data-dir", dir_.path()});
  setenv("D2G_DATA_DIR", dir_.path().c_str(), /*overwrite=*/1);
  const ExitResult environment = RunProcess({"d2g", "jobs"});
  unsetenv("D2G_COORDINATOR");
  unsetenv("D2G_DATA_DIR");
  EXPECT_EQ(chosen.code, kOk) << chosen.output;
  EXPECT_EQ(environment.code, kCannotReach) << environment.output;
  EXPECT_THAT(environment.output, HasSubstr("$D2G_COORDINATOR"));
}

TEST_F(D2gTest, WatchFollowsTheClusterToAnotherPort) {
  const std::string job = SubmitGoodJob();
  const auto tell = [this] {
    cli::ClusterFile cluster;
    cluster.data_dir = dir_.path();
    cluster.coordinator = Address();
    ASSERT_TRUE(cli::WriteClusterFile(cluster).ok());
  };
  tell();
  Process watch(
      {"d2g", "watch", job, "--data-dir", dir_.path(), "--state-file", dir_.File("seen.json")});
  ASSERT_TRUE(WaitFor([&] { return std::filesystem::exists(dir_.File("seen.json")); }))
      << watch.Output();
  coordinator_->Signal(SIGKILL);
  coordinator_->Wait();
  const int old_port = std::exchange(port_, 0);
  StartCoordinator();
  ASSERT_NE(port_, old_port);
  tell();
  EXPECT_EQ(D2g({"cancel", job}).code, kOk);
  const ExitResult result = watch.Wait(absl::Seconds(60));
  EXPECT_EQ(result.code, kJobFailed) << result.output;
  EXPECT_THAT(result.output, AllOf(HasSubstr("the coordinator is back"), HasSubstr("cancelled")));
}

TEST_F(D2gTest, ALimitOfJobsIsAPositiveNumber) {
  for (const char* limit : {"-1", "0", "x"}) {
    const ExitResult result = D2g({"jobs", "--limit", limit});
    EXPECT_EQ(result.code, kUsage) << limit << result.output;
    EXPECT_THAT(result.output, HasSubstr("--limit"));
  }
  EXPECT_EQ(D2g({"jobs", "--limit", "1"}).code, kOk);
}

TEST_F(D2gTest, OutputThatGoesNowhereIsAFailure) {
  const std::string jobs = absl::StrCat(std::getenv("D2G_BIN_DIR"), "/d2g jobs --coordinator ",
                                        Address(), " > /dev/full");
  const ExitResult result = RunProcess({"/bin/sh", "-c", jobs});
  EXPECT_EQ(result.code, kFailure);
  EXPECT_THAT(result.output, HasSubstr("cannot write to the standard output"));
}

TEST_F(D2gTest, InputThatIsNoFileIsNamed) {
  const ExitResult folder = D2g({"submit", dir_.File("in")});
  EXPECT_EQ(folder.code, kBadInput);
  EXPECT_THAT(folder.output, HasSubstr(dir_.File("in") + ": is a folder, not a file"));
  ASSERT_EQ(mkfifo(Input("pipe").c_str(), 0600), 0);
  WriteJob(absl::StrReplaceAll(kJob, {{"prompts.txt", "pipe"}}));
  const ExitResult pipe = D2g({"submit", Input("job.yaml")});
  EXPECT_EQ(pipe.code, kBadInput);
  EXPECT_THAT(pipe.output, HasSubstr("pipe: is a pipe, and nobody wrote into it"));
}

TEST_F(D2gTest, APathAfterSetIsTakenFromTheCurrentFolder) {
  // The file's own paths stay relative to the file.
  const std::string submit = absl::StrCat(
      "cd ", dir_.path(), " && HOME=", dir_.path(), " ", std::getenv("D2G_BIN_DIR"),
      "/d2g submit in/job.yaml --set output_dir=~/runs --set prompts.path=in/prompts.txt",
      " --coordinator ", Address());
  const ExitResult result = RunProcess({"/bin/sh", "-c", submit});
  ASSERT_EQ(result.code, kOk) << result.output;
  const std::string job(absl::StripSuffix(result.output, "\n"));
  EXPECT_THAT(D2g({"describe", job}).output, HasSubstr(dir_.File("runs")));
}

TEST_F(D2gTest, VerifyOfANewJobSaysThatNothingIsThereYet) {
  const std::string job = SubmitGoodJob();
  const std::string port_file = dir_.File("store.ports");
  Process store({"d2g-store", "--data-dir", dir_.File("store"), "--shard", "0", "--coordinator",
                 Address(), "--min-free-bytes", "0", "--min-free-share", "0"});
  ExitResult result;
  EXPECT_TRUE(WaitFor([&] {
    result = D2g({"verify", job});
    return result.code != kCannotReach;
  })) << result.output;
  EXPECT_EQ(result.code, kFailure);
  EXPECT_THAT(result.output, HasSubstr("nothing simulated yet"));
}

TEST_F(D2gTest, SetOverridesTheFile) {
  const ExitResult result =
      D2g({"submit", Input("job.yaml"), "--set", "train.steps=-7", "--validate-only"});
  EXPECT_EQ(result.code, kBadInput);
  EXPECT_THAT(result.output, HasSubstr("train.steps: -7"));
}

}  // namespace
}  // namespace d2g

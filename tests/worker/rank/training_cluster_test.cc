// Training by real processes alone: coordinator, two store shards, gang agent, two ranks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "coordinator/client/client.h"
#include "services/common/file_io.h"
#include "services/common/port_file.h"
#include "services/dataset/latent_codec.h"
#include "services/dataset/noise.h"
#include "services/dataset/prompt_order.h"
#include "services/store/client/triple_client.h"
#include "tests/testing/process.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/torch/tiny_teacher.h"
#include "tests/testing/wait.h"

namespace d2g::rank {
namespace {

namespace fs = std::filesystem;
using ::d2g::testing::Process;
using ::d2g::testing::TempDir;
using ::d2g::testing::WaitFor;
using nlohmann::json;

constexpr int64_t kTriples = 256;
constexpr int32_t kBlock = 32;
constexpr int64_t kBatch = 8;
constexpr int64_t kSteps = 60;
constexpr absl::Duration kLong = absl::Seconds(150);

absl::Time Soon() { return absl::Now() + absl::Seconds(30); }

// A program with --port-file, started again on the ports that it had.
class Server {
 public:
  Server(std::string name, std::vector<std::string> arguments, const TempDir& dir)
      : arguments_(std::move(arguments)), port_file_(dir.File(name + ".ports")) {
    Start();
  }
  void Start() {
    std::vector<std::string> arguments = arguments_;
    for (const std::string& more :
         {std::string("--listen"), absl::StrCat("127.0.0.1:", ports_.grpc),
          std::string("--admin-address"), std::string("127.0.0.1:0"), std::string("--port-file"),
          port_file_}) {
      arguments.push_back(more);
    }
    std::error_code ignored;
    fs::remove(port_file_, ignored);
    process_ = std::make_unique<Process>(arguments);
    EXPECT_TRUE(WaitFor([&] { return common::ReadPortFile(port_file_).ok(); }, kLong))
        << process_->Output();
    ports_ = *common::ReadPortFile(port_file_);
  }
  void KillAndRestart() {
    process_->Signal(SIGKILL);
    process_->Wait();
    Start();
  }
  std::string address() const { return absl::StrCat("127.0.0.1:", ports_.grpc); }

 private:
  const std::vector<std::string> arguments_;
  const std::string port_file_;
  common::Ports ports_;
  std::unique_ptr<Process> process_;
};

// The process of a rank, found by its command line among all processes; 0: none.
pid_t FindRank(int rank, const std::string& marker) {
  for (const fs::directory_entry& entry : fs::directory_iterator("/proc")) {
    pid_t pid = 0;
    if (!absl::SimpleAtoi(entry.path().filename().string(), &pid)) continue;
    std::ifstream file(entry.path() / "environ");
    std::stringstream environment;
    environment << file.rdbuf();
    std::ifstream command(entry.path() / "cmdline");
    std::stringstream line;
    line << command.rdbuf();
    std::string words = line.str();
    for (char& c : words) c = c == '\0' ? ' ' : c;
    if (absl::StrContains(words, "d2g-rank") &&
        absl::StrContains(words, absl::StrCat("--rank ", rank, " ")) &&
        absl::StrContains(environment.str(), marker)) {
      return pid;
    }
  }
  return 0;
}

class TrainingClusterTest : public ::testing::Test {
 protected:
  TrainingClusterTest() {
    // Marks the ranks of this test: they inherit it through the agent.
    marker_ = absl::StrCat("D2G_TEST_CLUSTER=", dir_.path());
    setenv("D2G_TEST_CLUSTER", dir_.path().c_str(), 1);
    testing::WriteTinyTeacher(dir_.File("teacher"));
    coordinator_ = std::make_unique<Server>(
        "coordinator",
        std::vector<std::string>{"d2g-coordinator", "--data-dir", dir_.File("coordinator"),
                                 "--shards", "2", "--gang-settle", "200ms", "--agent-timeout",
                                 "5s"},
        dir_);
    client_ = std::make_unique<coordinator::CoordinatorClient>(coordinator_->address());
    for (int shard = 0; shard < 2; ++shard) {
      shards_.push_back(std::make_unique<Server>(
          absl::StrCat("store-", shard),
          std::vector<std::string>{"d2g-store", "--data-dir", dir_.File(absl::StrCat("s", shard)),
                                   "--shard", absl::StrCat(shard), "--coordinator",
                                   coordinator_->address(), "--min-free-bytes", "0",
                                   "--min-free-share", "0"},
          dir_));
    }
  }

  std::string CreateJob(const std::string& output) {
    std::string prompts;
    for (int i = 0; i < 12; ++i) prompts += absl::StrCat("shape ", i, "\n");
    const auto list = client_->UploadPromptList(prompts, Soon());
    EXPECT_TRUE(list.ok()) << list.status();
    coordinator::v1::CreateJobRequest request;
    request.set_request_id(output);
    auto& spec = *request.mutable_spec();
    spec.mutable_teacher()->set_path(dir_.File("teacher"));
    spec.mutable_prompts()->set_digest(list->digest());
    spec.set_output_dir(dir_.File(output));
    auto& simulate = *spec.mutable_simulate();
    simulate.set_triples(kTriples);
    simulate.set_min_triples(kTriples / 2);
    simulate.set_seed(5);
    simulate.set_block_size(kBlock);
    simulate.set_holdout_every(8);
    auto& train = *spec.mutable_train();
    train.set_steps(kSteps);
    train.set_global_batch(kBatch);
    train.set_min_ranks(2);
    train.set_max_ranks(2);
    train.set_checkpoint_every(10);
    train.set_seed(3);
    train.set_deterministic(true);
    train.mutable_gan()->set_weight(0.1);
    train.mutable_gan()->set_start_step(40);
    const auto job = client_->CreateJob(request, Soon());
    EXPECT_TRUE(job.ok()) << job.status();
    return job->name();
  }

  coordinator::v1::Job GetJob(const std::string& name) {
    coordinator::v1::GetJobRequest request;
    request.set_name(name);
    const auto job = client_->GetJob(request, Soon());
    EXPECT_TRUE(job.ok()) << job.status();
    return job.ok() ? *job : coordinator::v1::Job();
  }

  // Does the simulation workers' work: every triple, x being the noise of another seed.
  void FillDataset(const std::string& name) {
    coordinator::v1::GetDatasetRequest request;
    request.set_name(name);
    absl::StatusOr<coordinator::v1::Dataset> dataset;
    ASSERT_TRUE(WaitFor(
        [&] {
          dataset = client_->GetDataset(request, Soon());
          return dataset.ok() && dataset->shards_size() == 2;
        },
        kLong));
    const common::v1::DatasetRecipe& recipe = dataset->recipe();
    std::vector<std::unique_ptr<store::TripleClient>> clients;
    for (const auto& shard : dataset->shards()) {
      clients.push_back(std::make_unique<store::TripleClient>(shard));
      ASSERT_TRUE(clients.back()->OpenDataset(name, recipe, Soon()).ok());
    }
    for (int64_t begin = 0; begin < kTriples; begin += kBlock) {
      store::TripleClient& client = *clients[begin / kBlock % 2];
      store::AppendTarget target;
      target.dataset = name;
      target.range.set_begin(begin);
      target.range.set_end(begin + kBlock);
      std::vector<store::v1::Triple> triples;
      for (int64_t index = begin; index < begin + kBlock; ++index) {
        std::vector<float> x(dataset::LatentElements(recipe));
        std::vector<float> z(x.size());
        dataset::FillNoise(recipe.seed() + 1, index, x);
        dataset::FillNoise(recipe.seed(), index, z);
        triples.push_back(*dataset::MakeTriple(
            index, dataset::PromptIndexOf(recipe.seed(), index, recipe.prompt_count()), x, z,
            recipe.storage_dtype()));
      }
      ASSERT_OK_AND_ASSIGN(const auto session, client.Append(target, Soon()));
      ASSERT_THAT(session->Write(triples, Soon()), testing::IsOk());
      ASSERT_THAT(session->Finish(Soon()).status(), testing::IsOk());
      ASSERT_THAT(client.SealRange(name, target.range, {}, Soon()).status(), testing::IsOk());
    }
  }

  std::unique_ptr<Process> StartTrainer() {
    return std::make_unique<Process>(std::vector<std::string>{
        "d2g-trainer", "--coordinator", coordinator_->address(), "--slots", "2", "--device", "cpu",
        "--rank-binary", absl::StrCat(getenv("D2G_BIN_DIR"), "/d2g-rank"), "--admin-address",
        "127.0.0.1:0"});
  }

  bool WaitForStep(const std::string& job, int64_t step) {
    return WaitFor([&] { return GetJob(job).checkpoint_step() >= step; }, kLong);
  }

  // Digests of the files of the last checkpoint's tensors.
  std::map<std::string, std::string> FinalDigests(const std::string& job) {
    coordinator::v1::ListCheckpointsRequest request;
    request.set_parent(job);
    const auto list = client_->ListCheckpoints(request, Soon());
    EXPECT_TRUE(list.ok()) << list.status();
    std::map<std::string, std::string> digests;
    for (const coordinator::v1::Checkpoint& checkpoint : list->checkpoints()) {
      if (checkpoint.step() != kSteps) continue;
      const json manifest = json::parse(*common::ReadFile(checkpoint.path() + "/manifest.json"));
      for (const json& file : manifest["files"]) {
        if (file["name"] != "state.json") digests[file["name"]] = file["xxh3_128"];
      }
    }
    return digests;
  }

  // By step, how many indices each rank consumed when the step was last done, and that no two are
  // the same within an epoch.
  void ExpectWholeAudit(const std::string& output) {
    struct Line {
      int64_t generation = 0;
      json entry;
    };
    // By step and position in the batch.
    std::map<std::pair<int64_t, int64_t>, Line> last;
    for (const auto& entry : fs::directory_iterator(dir_.File(output) + "/audit")) {
      std::ifstream file(entry.path());
      for (std::string text; std::getline(file, text);) {
        const json parsed = json::parse(text, nullptr, false);
        if (parsed.is_discarded()) continue;  // Cut by a kill.
        const std::string name = entry.path().filename().string();
        const int64_t generation = std::stoll(name.substr(std::string("generation-").size()));
        Line& line = last[{parsed["step"], parsed["position"]}];
        if (generation >= line.generation) line = {generation, parsed};
      }
    }
    ASSERT_EQ(last.size(), static_cast<size_t>(2 * kSteps));
    std::map<int64_t, std::set<int64_t>> visited;
    for (const auto& [place, line] : last) {
      EXPECT_EQ(line.entry["indices"].size(), static_cast<size_t>(kBatch / 2));
      for (const int64_t index : line.entry["indices"]) {
        EXPECT_NE(index % 8, 0) << "held out";
        EXPECT_TRUE(visited[line.entry["epoch"]].insert(index).second) << index;
      }
    }
  }

  const TempDir dir_;
  std::string marker_;
  std::unique_ptr<Server> coordinator_;
  std::unique_ptr<coordinator::CoordinatorClient> client_;
  std::vector<std::unique_ptr<Server>> shards_;
};

TEST_F(TrainingClusterTest, KillingAnythingChangesNoBitOfTheResult) {
  const std::string whole = CreateJob("whole");
  FillDataset(GetJob(whole).dataset());
  std::unique_ptr<Process> trainer = StartTrainer();
  ASSERT_TRUE(WaitForStep(whole, kSteps)) << trainer->Output();
  ExpectWholeAudit("whole");
  const std::map<std::string, std::string> expected = FinalDigests(whole);
  ASSERT_EQ(expected.size(), 5u);

  const std::string killed = CreateJob("killed");
  ASSERT_TRUE(WaitForStep(killed, 10)) << trainer->Output();
  const pid_t rank = FindRank(1, marker_);
  ASSERT_NE(rank, 0);
  kill(rank, SIGKILL);
  ASSERT_TRUE(WaitForStep(killed, 20)) << trainer->Output();
  shards_[0]->KillAndRestart();
  ASSERT_TRUE(WaitForStep(killed, 30)) << trainer->Output();
  coordinator_->KillAndRestart();
  ASSERT_TRUE(WaitForStep(killed, 40)) << trainer->Output();
  trainer->Signal(SIGKILL);
  trainer->Wait();
  trainer = StartTrainer();
  ASSERT_TRUE(WaitForStep(killed, kSteps)) << trainer->Output();
  ExpectWholeAudit("killed");
  EXPECT_EQ(FinalDigests(killed), expected);
  EXPECT_GE(GetJob(killed).generation(), 3);
}

}  // namespace
}  // namespace d2g::rank

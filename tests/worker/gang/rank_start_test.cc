// Real d2g-trainer programs, of which one cannot start its ranks, with a real coordinator.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/client/client.h"
#include "coordinator/server.h"
#include "tests/coordinator/fake_shard.h"
#include "tests/coordinator/harness.h"
#include "tests/coordinator/input_folders.h"
#include "tests/testing/process.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/wait.h"

namespace d2g::gang {
namespace {

using ::d2g::coordinator::v1::Job;
using ::d2g::testing::IsOk;
using ::d2g::testing::Process;
using ::d2g::testing::WaitFor;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;

absl::Time Soon() { return absl::Now() + absl::Seconds(30); }

// A job that wants to train with two ranks and can with one; its triples are there.
class RankStartTest : public ::testing::Test {
 protected:
  void SetUp() override {
    coordinator::CoordinatorServerOptions options;
    options.data_dir = dir_.File("coordinator");
    options.shards = 2;
    options.gang.settle = absl::Milliseconds(200);
    options.gang.start_timeout = absl::Seconds(3);
    ASSERT_OK_AND_ASSIGN(server_, coordinator::CoordinatorServer::Start(options));
    client_ = std::make_unique<coordinator::CoordinatorClient>(server_->address());
    for (int shard = 0; shard < 2; ++shard) {
      shards_.push_back(std::make_unique<coordinator::FakeShard>(server_->address(), shard));
    }
    ASSERT_OK_AND_ASSIGN(const auto list, client_->UploadPromptList("a\nb\n", Soon()));
    coordinator::v1::CreateJobRequest create;
    auto& spec = *create.mutable_spec();
    spec = coordinator::SmallSpec();
    inputs_.Fill(&spec);
    spec.mutable_prompts()->set_digest(list.digest());
    spec.mutable_train()->set_min_ranks(1);
    // What the ranks do is written there; nothing: they train for ever.
    spec.clear_display_name();
    ASSERT_OK_AND_ASSIGN(const Job job, client_->CreateJob(create, Soon()));
    job_ = job.name();
  }

  // Does the simulation workers' work.
  void Simulate() {
    coordinator::v1::LeaseTaskRequest request;
    *request.mutable_worker() = coordinator::Harness::Worker("w");
    request.add_kinds(coordinator::v1::TASK_KIND_SIMULATE);
    ASSERT_TRUE(WaitFor([&] {
      const auto leased = client_->LeaseTask(request, Soon());
      if (!leased.ok() || !leased->has_task()) return Get().stages(0).done() == 128;
      const auto& work = leased->task().simulate();
      coordinator::v1::CompleteTaskRequest complete;
      complete.set_task(leased->task().name());
      complete.set_lease_id(leased->task().lease_id());
      *complete.mutable_worker() = request.worker();
      *complete.mutable_simulate() =
          shards_[work.shard().shard()]->Seal(work.dataset(), work.range());
      EXPECT_THAT(client_->CompleteTask(complete, Soon()), IsOk());
      return false;
    }));
  }
  Job Get() {
    coordinator::v1::GetJobRequest request;
    request.set_name(job_);
    const auto job = client_->GetJob(request, Soon());
    EXPECT_THAT(job, IsOk());
    return job.ok() ? *job : Job();
  }
  std::unique_ptr<Process> StartTrainer(const std::string& node, const std::string& rank_binary) {
    auto trainer = std::make_unique<Process>(
        std::vector<std::string>{"d2g-trainer", "--coordinator", server_->address(), "--node", node,
                                 "--rank-binary", rank_binary, "--admin-address", "127.0.0.1:0"});
    EXPECT_TRUE(WaitFor([&] {
      return trainer->Output().find("joined the gang") != std::string::npos;
    })) << trainer->Output();
    return trainer;
  }
  std::string GoodRank() const { return absl::StrCat(getenv("D2G_BIN_DIR"), "/fake_rank"); }
  // A rank that runs and never says a word.
  std::string SilentRank() const {
    const std::string path = dir_.File("silent-rank");
    std::ofstream(path) << "#!/bin/sh\nexec sleep 600\n";
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
    return path;
  }
  // The second generation trains without the bad node, whose agent is named.
  void ExpectTrainsWithout(const std::string& bad, const std::string& why) {
    Simulate();
    EXPECT_TRUE(WaitFor(
        [&] {
          const Job job = Get();
          return job.generation() == 2 && job.stages(1).done() > 10;
        },
        absl::Minutes(1)))
        << Get().DebugString();
    EXPECT_THAT(Get().health(), Contains(AllOf(HasSubstr(absl::StrCat("on node ", bad)),
                                               HasSubstr(why), HasSubstr("broke 1 of at most"))));
  }

  const testing::TempDir dir_;
  const coordinator::InputFolders inputs_;
  std::unique_ptr<coordinator::CoordinatorServer> server_;
  std::unique_ptr<coordinator::CoordinatorClient> client_;
  std::vector<std::unique_ptr<coordinator::FakeShard>> shards_;
  std::string job_;
};

TEST_F(RankStartTest, AnAgentWhoseRankNeverSpeaksIsLeftOut) {
  const auto good = StartTrainer("good", GoodRank());
  const auto bad = StartTrainer("bad", SilentRank());
  ExpectTrainsWithout("bad", "did not start its ranks within 3s");
}

TEST_F(RankStartTest, EvenWhereItWouldHaveRankZero) {
  const auto bad = StartTrainer("bad", SilentRank());
  const auto good = StartTrainer("good", GoodRank());
  ExpectTrainsWithout("bad", "did not start its ranks within 3s");
}

TEST_F(RankStartTest, AnAgentWithoutARankProgramIsLeftOut) {
  const auto good = StartTrainer("good", GoodRank());
  const auto bad = StartTrainer("bad", "/no/such/rank");
  ExpectTrainsWithout("bad", "rank 1 did not start: ");
}

}  // namespace
}  // namespace d2g::gang

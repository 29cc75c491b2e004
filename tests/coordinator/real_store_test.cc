// The real coordinator and two real store shards: what one counts the other must count.
#include <csignal>
#include <filesystem>

#include "coordinator/client/client.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/common/port_file.h"
#include "services/store/client/triple_client.h"
#include "tests/coordinator/harness.h"
#include "tests/coordinator/input_folders.h"
#include "tests/services/store/store_test_util.h"
#include "tests/testing/http_get.h"
#include "tests/testing/process.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/wait.h"

namespace d2g::coordinator {
namespace {

using ::d2g::testing::HttpGet;
using ::d2g::testing::IsOk;
using ::d2g::testing::Process;
using ::d2g::testing::RunProcess;
using ::d2g::testing::TempDir;
using ::d2g::testing::WaitFor;
using ::testing::AllOf;
using ::testing::HasSubstr;

absl::Time Soon() { return absl::Now() + absl::Seconds(60); }

// A program that writes a port file, started again at the same address.
class Server {
 public:
  explicit Server(std::vector<std::string> arguments) : arguments_(std::move(arguments)) {}

  void Start() {
    std::vector<std::string> arguments = arguments_;
    arguments.insert(arguments.end(), {"--listen", address_, "--port-file", dir_.File("ports")});
    std::filesystem::remove(dir_.File("ports"));
    process_ = std::make_unique<Process>(arguments);
    ASSERT_TRUE(WaitFor([&] { return common::ReadPortFile(dir_.File("ports")).ok(); }))
        << process_->Output();
    const auto ports = common::ReadPortFile(dir_.File("ports"));
    address_ = absl::StrCat("127.0.0.1:", ports->grpc);
    admin_port_ = ports->admin;
  }
  void Kill() {
    process_->Signal(SIGKILL);
    process_->Wait();
  }
  const std::string& address() const { return address_; }
  int admin_port() const { return admin_port_; }

 private:
  TempDir dir_;
  std::vector<std::string> arguments_;
  std::string address_ = "127.0.0.1:0";
  int admin_port_ = 0;
  std::unique_ptr<Process> process_;
};

class RealStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    coordinator_ = std::make_unique<Server>(
        std::vector<std::string>{"d2g-coordinator", "--data-dir", dir_.File("coordinator"),
                                 "--shards", "2", "--lease-duration", "5s"});
    coordinator_->Start();
    for (int shard = 0; shard < 2; ++shard) {
      shards_.push_back(std::make_unique<Server>(std::vector<std::string>{
          "d2g-store", "--data-dir", Folder(shard), "--shard", absl::StrCat(shard), "--coordinator",
          coordinator_->address(), "--min-free-bytes", "0", "--min-free-share", "0"}));
      shards_.back()->Start();
    }
    client_ = std::make_unique<CoordinatorClient>(coordinator_->address());
    v1::CreateJobRequest create;
    *create.mutable_spec() = SmallSpec();
    inputs_.Fill(create.mutable_spec());
    const auto list = client_->UploadPromptList("a\nb\n", Soon());
    ASSERT_THAT(list, IsOk());
    create.mutable_spec()->mutable_prompts()->set_digest(list->digest());
    const auto job = client_->CreateJob(create, Soon());
    ASSERT_THAT(job, IsOk());
    job_ = job->name();
    dataset_ = job->dataset();
  }
  std::string Folder(int shard) const { return dir_.File(absl::StrCat("shard", shard)); }
  v1::Job Get() {
    v1::GetJobRequest request;
    request.set_name(job_);
    const auto job = client_->GetJob(request, Soon());
    EXPECT_THAT(job, IsOk());
    return job.ok() ? *job : v1::Job();
  }
  bool BothShardsLive() {
    const std::string metrics = HttpGet(coordinator_->admin_port(), "/metrics");
    return metrics.find("d2g_coordinator_shards 2\n") != std::string::npos;
  }
  // One task from lease to completion; false when there is none.
  bool Simulate() {
    v1::LeaseTaskRequest request;
    *request.mutable_worker() = Harness::Worker("w");
    request.add_kinds(v1::TASK_KIND_SIMULATE);
    const auto leased = client_->LeaseTask(request, Soon());
    EXPECT_THAT(leased, IsOk());
    if (!leased.ok() || !leased->has_task()) return false;
    const auto& work = leased->task().simulate();
    store::TripleClient shard(work.shard());
    EXPECT_THAT(shard.OpenDataset(work.dataset(), work.recipe(), Soon()), IsOk());
    store::AppendTarget target;
    target.dataset = work.dataset();
    target.range = work.range();
    target.range_epoch = work.range_epoch();
    target.producer.set_worker("w");
    const auto session = shard.Append(target, Soon());
    EXPECT_THAT(session, IsOk());
    if (!session.ok()) return false;
    std::vector<store::v1::Triple> triples;
    for (int64_t n = work.range().begin(); n < work.range().end(); ++n) {
      if (!(*session)->WasPresent(n)) {
        triples.push_back(store::testing::TestTriple(n, work.recipe()));
      }
    }
    appended_ += static_cast<int64_t>(triples.size());
    EXPECT_THAT((*session)->Write(std::move(triples), Soon()), IsOk());
    EXPECT_THAT((*session)->Finish(Soon()), IsOk());
    const auto sealed = shard.SealRange(work.dataset(), work.range(), target.producer, Soon());
    EXPECT_THAT(sealed, IsOk());
    v1::CompleteTaskRequest complete;
    complete.set_task(leased->task().name());
    complete.set_lease_id(leased->task().lease_id());
    *complete.mutable_worker() = request.worker();
    if (sealed.ok()) *complete.mutable_simulate() = *sealed;
    EXPECT_THAT(client_->CompleteTask(complete, Soon()), IsOk());
    return true;
  }

  TempDir dir_;
  InputFolders inputs_;
  std::unique_ptr<Server> coordinator_;
  std::vector<std::unique_ptr<Server>> shards_;
  std::unique_ptr<CoordinatorClient> client_;
  std::string job_;
  std::string dataset_;
  int64_t appended_ = 0;
};

// A data folder that another program keeps is named and left as it is.
TEST_F(RealStoreTest, NeitherTakesTheOthersDataFolder) {
  const std::string coordinators = dir_.File("coordinator");
  ASSERT_TRUE(WaitFor([&] { return BothShardsLive(); }));
  ASSERT_TRUE(Simulate());  // which makes the dataset on shard 0, and none on shard 1
  coordinator_->Kill();
  shards_[0]->Kill();
  shards_[1]->Kill();
  const std::pair<int, const char*> shards[] = {{0, "column family \"dataset-1\""},
                                                {1, "the row \"S\""}};
  for (const auto& [shard, holds] : shards) {
    const auto refused =
        RunProcess({"d2g-coordinator", "--data-dir", Folder(shard), "--shards", "2"});
    EXPECT_EQ(refused.code, 3) << refused.output;
    EXPECT_THAT(refused.output,
                AllOf(HasSubstr(Folder(shard)),
                      HasSubstr("something else than a coordinator's rows"), HasSubstr(holds)));
  }
  const auto refused = RunProcess({"d2g-store", "--data-dir", coordinators, "--shard", "0",
                                   "--coordinator", coordinator_->address()});
  EXPECT_EQ(refused.code, 3) << refused.output;
  EXPECT_THAT(refused.output, AllOf(HasSubstr(coordinators), HasSubstr("not a d2g store")));
  coordinator_->Start();
  shards_[0]->Start();
  shards_[1]->Start();
  EXPECT_TRUE(WaitFor([&] { return BothShardsLive(); })) << "all open their own as before";
}

TEST_F(RealStoreTest, AShardThatLostItsVolumeIsFilledAgainAndNothingElseIs) {
  ASSERT_TRUE(WaitFor([&] { return BothShardsLive(); }));
  while (Simulate()) {
  }
  EXPECT_EQ(Get().stages(0).done(), 128);
  EXPECT_EQ(appended_, 128);

  // Both start again and agree: heartbeats reopen nothing.
  coordinator_->Kill();
  shards_[0]->Kill();
  shards_[0]->Start();
  coordinator_->Start();
  ASSERT_TRUE(WaitFor([&] { return BothShardsLive(); }));
  EXPECT_EQ(Get().stages(0).done(), 128);
  EXPECT_FALSE(Simulate());
  EXPECT_THAT(HttpGet(coordinator_->admin_port(), "/metrics"),
              HasSubstr("d2g_coordinator_triples_reopened_total 0\n"));

  v1::GetDatasetRequest get;
  get.set_name(dataset_);
  ASSERT_OK_AND_ASSIGN(const v1::Dataset dataset, client_->GetDataset(get, Soon()));
  ASSERT_EQ(dataset.shards_size(), 2);
  EXPECT_EQ(dataset.sealed_count(), 128);

  // A shard comes back with an empty volume: the 64 triples that it held are made again.
  shards_[1]->Kill();
  ASSERT_TRUE(WaitFor([&] { return !BothShardsLive(); }));
  std::filesystem::remove_all(Folder(1));
  shards_[1]->Start();
  ASSERT_TRUE(WaitFor([&] { return Get().stages(0).done() == 64; }));
  while (Simulate()) {
  }
  EXPECT_EQ(Get().stages(0).done(), 128);
  EXPECT_EQ(appended_, 192) << "only what was lost";
}

}  // namespace
}  // namespace d2g::coordinator

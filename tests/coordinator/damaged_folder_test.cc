// The real server in this process on a folder whose rows are damaged.
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "coordinator/client/client.h"
#include "coordinator/rows/row_keys.h"
#include "coordinator/rows/row_store.h"
#include "coordinator/server.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/harness.h"
#include "tests/coordinator/input_folders.h"
#include "tests/testing/http_get.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace d2g::coordinator {
namespace {

using ::d2g::testing::HttpGet;
using ::d2g::testing::IsOk;
using ::d2g::testing::IsOkAndHolds;
using ::d2g::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;
using v1::Job;

absl::Time Soon() { return absl::Now() + absl::Seconds(20); }

class DamagedFolderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    options_.data_dir = dir_.File("data");
    options_.shards = 2;
    Start();
    client_ = std::make_unique<CoordinatorClient>(server_->address());
  }
  void Start() {
    auto server = CoordinatorServer::Start(options_);
    ASSERT_THAT(server, IsOk());
    server_ = *std::move(server);
    options_.listen = server_->address();  // a restart serves at the same place
  }
  // Overwrites rows while no server has the folder.
  void Write(const RowChanges& rows) {
    server_.reset();
    ASSERT_OK_AND_ASSIGN(const auto store, RowStore::Open(options_.data_dir, 2));
    ASSERT_THAT(store->Commit({rows}), IsOk());
  }
  bool Shows(const std::string& line) {
    return absl::StrContains(HttpGet(server_->admin_port(), "/metrics"), line);
  }

  d2g::testing::TempDir dir_;
  InputFolders inputs_;
  CoordinatorServerOptions options_;
  std::unique_ptr<CoordinatorServer> server_;
  std::unique_ptr<CoordinatorClient> client_;
};

TEST_F(DamagedFolderTest, RowsThatCannotBeUsedAreKeptAsideAndShown) {
  EXPECT_TRUE(Shows("d2g_coordinator_rows_set_aside 0\n"));
  v1::CreateJobRequest create;
  *create.mutable_spec() = SmallSpec();
  inputs_.Fill(create.mutable_spec());
  ASSERT_OK_AND_ASSIGN(const auto prompts, client_->UploadPromptList("a dog\na cat\n", Soon()));
  create.mutable_spec()->mutable_prompts()->set_digest(prompts.digest());
  ASSERT_OK_AND_ASSIGN(const Job job, client_->CreateJob(create, Soon()));
  const std::string list = absl::StrCat(kPromptListPrefix, prompts.digest());
  Write({{list, "\xff garbage"}, {"S", "of somebody else"}});  // the folder's second start
  Start();
  EXPECT_TRUE(Shows("d2g_coordinator_rows_set_aside 2\n"));
  v1::GetJobRequest get;
  get.set_name(job.name());
  ASSERT_OK_AND_ASSIGN(const Job found, client_->GetJob(get, Soon()));
  EXPECT_EQ(found.state(), Job::STATE_RUNNING);
  // The list's blobs are whole, so its row is made again.
  EXPECT_THAT(client_->FetchPromptList(prompts.digest(), Soon()), IsOkAndHolds("a dog\na cat\n"));
  server_.reset();
  Start();
  EXPECT_TRUE(Shows("d2g_coordinator_rows_set_aside 2\n")) << "also at later starts";
  server_.reset();
  ASSERT_OK_AND_ASSIGN(const auto store, RowStore::Open(options_.data_dir, 2));
  std::set<std::string> keys;
  ASSERT_THAT(store->Scan([&](absl::string_view key, const std::string&) {
    keys.emplace(key);
    return absl::OkStatus();
  }),
              IsOk());
  EXPECT_FALSE(keys.contains("S"));
  EXPECT_TRUE(keys.contains(list));
  EXPECT_TRUE(keys.contains(absl::StrCat("job/", job.name().substr(sizeof("jobs/") - 1))));
  // The bytes are as they were, under the start that moved them.
  EXPECT_THAT(store->GetBlob(absl::StrCat("aside/", NumberId(3), "/", list)),
              IsOkAndHolds("\xff garbage"));
  EXPECT_THAT(store->GetBlob(absl::StrCat("aside/", NumberId(3), "/S")),
              IsOkAndHolds("of somebody else"));
}

TEST_F(DamagedFolderTest, WithoutItsMetaRowNothingIsReadOrTouched) {
  Write({{kMetaKey, "\xff"}});
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(CoordinatorServer::Start(options_).status(),
                StatusIs(absl::StatusCode::kDataLoss, AllOf(HasSubstr(options_.data_dir),
                                                            HasSubstr("the meta row is damaged"))));
  }
}

}  // namespace
}  // namespace d2g::coordinator

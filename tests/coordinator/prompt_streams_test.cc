// Prompt lists that come and go, at the real server in this process.
#include <algorithm>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "coordinator/client/client.h"
#include "coordinator/rows/limits.h"
#include "coordinator/rows/row_keys.h"
#include "coordinator/rows/row_store.h"
#include "coordinator/server.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/common/channel.h"
#include "services/common/clock.h"
#include "tests/coordinator/harness.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace d2g::coordinator {
namespace {

using ::d2g::testing::IsOk;
using ::d2g::testing::StatusIs;
using ::d2g::testing::TempDir;
using ::testing::HasSubstr;

absl::Time Soon() { return absl::Now() + absl::Seconds(20); }

class PromptStreamsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    options_.data_dir = dir_.File("data");
    Start();
    client_ = std::make_unique<CoordinatorClient>(server_->address());
  }
  void Start() {
    auto server = CoordinatorServer::Start(options_);
    ASSERT_THAT(server, IsOk());
    server_ = *std::move(server);
    options_.listen = server_->address();  // a restart serves at the same place
  }
  void Restart() {
    server_.reset();
    Start();
  }

  TempDir dir_;
  common::FakeClock clock_;  // where options_ names it
  CoordinatorServerOptions options_;
  std::unique_ptr<CoordinatorServer> server_;
  std::unique_ptr<CoordinatorClient> client_;
};

TEST_F(PromptStreamsTest, PromptListsComeBackAsTheyWereAlsoAfterARestart) {
  std::string text;
  for (int i = 0; text.size() < 3'500'000; ++i) text += absl::StrCat("a photo of number ", i, "\n");
  ASSERT_OK_AND_ASSIGN(const auto list, client_->UploadPromptList(text, Soon()));
  ASSERT_OK_AND_ASSIGN(const auto again, client_->UploadPromptList(text, Soon()));
  EXPECT_EQ(again.digest(), list.digest());
  Restart();
  ASSERT_OK_AND_ASSIGN(const std::string back, client_->FetchPromptList(list.digest(), Soon()));
  EXPECT_TRUE(back == text);
  EXPECT_EQ(list.prompt_count(), std::count(text.begin(), text.end(), '\n'));
}

TEST_F(PromptStreamsTest, BadPromptListsNameTheLine) {
  EXPECT_THAT(client_->UploadPromptList("a\n\nb\n", Soon()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("line 2")));
  EXPECT_THAT(client_->UploadPromptList("a\n" + std::string(1001, 'x'), Soon()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("1000")));
  EXPECT_THAT(client_->FetchPromptList(kPrompts, Soon()),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr(kPrompts)));
}

// An upload that was taken or refused, has sent a little and waits.
class OpenUpload {
 public:
  explicit OpenUpload(v1::JobService::Stub* stub) {
    writer_ = stub->UploadPromptList(&context_, &list_);
    writer_->WaitForInitialMetadata();
    v1::UploadPromptListRequest request;
    request.set_chunk("a photo\n");
    writer_->Write(request);
  }
  grpc::Status Finish() {
    writer_->WritesDone();
    return writer_->Finish();
  }

 private:
  grpc::ClientContext context_;
  v1::PromptList list_;
  std::unique_ptr<grpc::ClientWriter<v1::UploadPromptListRequest>> writer_;
};

TEST_F(PromptStreamsTest, OnlySoManyUploadsRunAtOnceAndAClientWaitsForItsTurn) {
  const auto stub = v1::JobService::NewStub(common::MakeChannel(server_->address()));
  std::vector<std::unique_ptr<OpenUpload>> open;
  for (size_t i = 0; i < kMaxPromptUploads; ++i) {
    open.push_back(std::make_unique<OpenUpload>(stub.get()));
  }
  const grpc::Status status = OpenUpload(stub.get()).Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("4 prompt lists are being uploaded, the limit"));
  EXPECT_THAT(client_->UploadPromptList("a dog\n", absl::Now() + absl::Milliseconds(300)),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("the limit")));
  std::thread waits([&] { EXPECT_THAT(client_->UploadPromptList("a dog\n", Soon()), IsOk()); });
  EXPECT_TRUE(open.front()->Finish().ok());
  waits.join();
  for (size_t i = 1; i < open.size(); ++i) EXPECT_TRUE(open[i]->Finish().ok());
}

TEST_F(PromptStreamsTest, AnUploadThatTakesTooLongMakesRoom) {
  options_.clock = &clock_;
  Restart();
  const auto stub = v1::JobService::NewStub(common::MakeChannel(server_->address()));
  std::vector<std::unique_ptr<OpenUpload>> open;
  for (size_t i = 0; i < kMaxPromptUploads; ++i) {
    open.push_back(std::make_unique<OpenUpload>(stub.get()));
  }
  ASSERT_FALSE(OpenUpload(stub.get()).Finish().ok());
  clock_.AdvanceTime(kMaxUploadTime + absl::Seconds(1));
  ASSERT_OK_AND_ASSIGN(const auto list, client_->UploadPromptList("a dog\n", Soon()));
  EXPECT_EQ(list.prompt_count(), 1);
  for (const auto& upload : open) {
    EXPECT_EQ(upload->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
}

TEST_F(PromptStreamsTest, AnUploadThatItsClientGaveUpIsNotStored) {
  const auto stub = v1::JobService::NewStub(common::MakeChannel(server_->address()));
  grpc::ClientContext context;
  v1::PromptList list;
  const auto writer = stub->UploadPromptList(&context, &list);
  v1::UploadPromptListRequest request;
  for (int line = 0; line < 2000; ++line) {
    absl::StrAppend(request.mutable_chunk(), "a photo of number ", line, "\n");
  }
  // More than is under way at once: the server has taken some of it.
  for (int chunk = 0; chunk < 200; ++chunk) ASSERT_TRUE(writer->Write(request));
  context.TryCancel();
  EXPECT_EQ(writer->Finish().error_code(), grpc::StatusCode::CANCELLED);
  ASSERT_OK_AND_ASSIGN(const auto whole, client_->UploadPromptList("a photo\n", Soon()));
  server_.reset();
  ASSERT_OK_AND_ASSIGN(const auto store, RowStore::Open(options_.data_dir, options_.shards));
  std::vector<std::string> lists;
  ASSERT_THAT(store->Scan([&](absl::string_view key, const std::string&) {
    if (absl::ConsumePrefix(&key, kPromptListPrefix)) lists.emplace_back(key);
    return absl::OkStatus();
  }),
              IsOk());
  EXPECT_THAT(lists, ::testing::ElementsAre(whole.digest()));
}

}  // namespace
}  // namespace d2g::coordinator

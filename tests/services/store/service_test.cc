// A shard over real gRPC on loopback: service, streams, client.
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "grpcpp/server_builder.h"
#include "gtest/gtest.h"
#include "services/common/channel.h"
#include "services/common/grpc_status.h"
#include "services/common/rpc_server.h"
#include "services/store/client/append_limits.h"
#include "services/store/client/triple_client.h"
#include "services/store/store_app.h"
#include "tests/services/store/store_test_util.h"
#include "tests/testing/http_get.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/wait.h"

namespace d2g::store {
namespace {

using ::d2g::testing::HttpGet;
using ::d2g::testing::IsOk;
using ::d2g::testing::StatusIs;
using ::d2g::testing::TempDir;
using ::d2g::testing::WaitFor;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::Range;
using testing::SmallRecipe;
using testing::TestTriple;
using v1::Triple;

constexpr char kName[] = "datasets/d1";

class ServiceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Start("127.0.0.1:0");
    common::v1::ShardAddress address;
    address.set_shard(0);
    address.set_address(listen_);
    address.set_store_uuid(app_->store().uuid());
    client_ = std::make_unique<TripleClient>(address);
    ASSERT_THAT(client_->OpenDataset(kName, recipe_, Soon()), IsOk());
  }

  void Start(const std::string& listen) {
    StoreAppOptions options;
    options.server.listen = listen;
    options.database.folder = dir_.File("data");
    options.database.write_buffer_bytes = 1 << 20;
    options.store.min_free_bytes = 0;
    options.store.min_free_share = 0;
    absl::StatusOr<std::unique_ptr<StoreApp>> app;
    // A port that was just closed may need a moment.
    ASSERT_TRUE(WaitFor([&] { return (app = StoreApp::Start(options)).ok(); })) << app.status();
    app_ = *std::move(app);
    listen_ = "127.0.0.1:" + std::to_string(app_->grpc_port());
  }

  static absl::Time Soon() { return absl::Now() + absl::Seconds(20); }

  std::vector<Triple> Triples(int64_t begin, int64_t end, int variant = 0) const {
    std::vector<Triple> triples;
    for (int64_t i = begin; i < end; ++i) triples.push_back(TestTriple(i, recipe_, variant));
    return triples;
  }

  void Fill(int64_t begin, int64_t end) {
    ASSERT_OK_AND_ASSIGN(const auto session,
                         client_->Append({.dataset = kName, .range = Range(begin, end)}, Soon()));
    ASSERT_THAT(session->Write(Triples(begin, end), Soon()), IsOk());
    ASSERT_THAT(session->Finish(Soon()), IsOk());
  }

  v1::DatasetKey Key() const {
    v1::DatasetKey key;
    key.set_dataset(kName);
    return key;
  }

  TempDir dir_;
  common::v1::DatasetRecipe recipe_ = SmallRecipe(/*shard_count=*/1, /*block_size=*/1024);
  std::unique_ptr<StoreApp> app_;
  std::string listen_;
  std::unique_ptr<TripleClient> client_;
};

TEST_F(ServiceTest, AppendSealReadAndList) {
  ASSERT_OK_AND_ASSIGN(const auto session,
                       client_->Append({.dataset = kName, .range = Range(0, 300)}, Soon()));
  EXPECT_EQ(session->present_count(), 0);
  ASSERT_THAT(session->Write(Triples(0, 300), Soon()), IsOk());
  ASSERT_OK_AND_ASSIGN(const auto totals, session->Finish(Soon()));
  EXPECT_EQ(totals.written, 300);
  EXPECT_EQ(totals.repeated, 0);
  ASSERT_OK_AND_ASSIGN(const auto sealed, client_->SealRange(kName, Range(0, 300), {}, Soon()));
  EXPECT_EQ(sealed.dataset_sealed_count(), 300);
  ASSERT_OK_AND_ASSIGN(const auto triples, client_->ReadTriples(kName, {299, 0, 150, 0}, Soon()));
  ASSERT_EQ(triples.size(), 4u);
  EXPECT_EQ(triples[0].SerializeAsString(), TestTriple(299, recipe_).SerializeAsString());
  EXPECT_EQ(triples[2].index(), 150);
  EXPECT_EQ(triples[3].index(), 0);
  ASSERT_OK_AND_ASSIGN(const auto list, client_->ListSealedRanges(kName, Soon()));
  ASSERT_EQ(list.ranges_size(), 1);
  EXPECT_EQ(list.ranges(0).end(), 300);
  EXPECT_EQ(list.digest(), sealed.sealed().digest());
  ASSERT_OK_AND_ASSIGN(const auto stats, client_->GetStats(Soon()));
  EXPECT_EQ(stats.datasets(0).present_count(), 300);
  EXPECT_EQ(stats.store_uuid(), app_->store().uuid());
  EXPECT_GT(stats.free_bytes(), 0);
}

TEST_F(ServiceTest, PartFilledRangeResumesFromThePresenceBitmap) {
  Fill(0, 100);
  ASSERT_OK_AND_ASSIGN(const auto session,
                       client_->Append({.dataset = kName, .range = Range(50, 150)}, Soon()));
  EXPECT_EQ(session->present_count(), 50);
  EXPECT_TRUE(session->WasPresent(99));
  EXPECT_FALSE(session->WasPresent(100));
  EXPECT_FALSE(session->WasPresent(10));
  std::vector<Triple> missing;
  for (int64_t i = 50; i < 150; ++i) {
    if (!session->WasPresent(i)) missing.push_back(TestTriple(i, recipe_));
  }
  ASSERT_THAT(session->Write(std::move(missing), Soon()), IsOk());
  ASSERT_OK_AND_ASSIGN(const auto totals, session->Finish(Soon()));
  EXPECT_EQ(totals.written, 50);
  EXPECT_EQ(totals.repeated, 0);
}

TEST_F(ServiceTest, RepeatsAreSuccessesCountedApart) {
  Fill(0, 10);
  ASSERT_OK_AND_ASSIGN(const auto session,
                       client_->Append({.dataset = kName, .range = Range(0, 20)}, Soon()));
  ASSERT_THAT(session->Write(Triples(0, 20, /*variant=*/1), Soon()), IsOk());
  ASSERT_OK_AND_ASSIGN(const auto totals, session->Finish(Soon()));
  EXPECT_EQ(totals.written, 10);
  EXPECT_EQ(totals.repeated, 10);
  ASSERT_OK_AND_ASSIGN(const auto triples, client_->ReadTriples(kName, {5, 15}, Soon()));
  EXPECT_EQ(triples[0].x(), TestTriple(5, recipe_, 0).x());
  EXPECT_EQ(triples[1].x(), TestTriple(15, recipe_, 1).x());
}

TEST_F(ServiceTest, WrongShardOrStoreIsRefused) {
  common::v1::ShardAddress address = client_->shard();
  address.set_shard(3);
  TripleClient wrong_shard(address);
  EXPECT_THAT(wrong_shard.ReadTriples(kName, {0}, Soon()),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("this is shard 0, the request is for shard 3")));
  address = client_->shard();
  address.set_store_uuid("deadbeef");
  TripleClient wrong_store(address);
  EXPECT_THAT(wrong_store.OpenDataset(kName, recipe_, Soon()),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr(app_->store().uuid()), HasSubstr("deadbeef"))));
  EXPECT_THAT(wrong_store.Append({.dataset = kName, .range = Range(0, 1)}, Soon()),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("deadbeef")));
  EXPECT_THAT(wrong_store.SealRange(kName, Range(0, 1), {}, Soon()),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(wrong_store.DropDataset(kName, Soon()),
              StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(ServiceTest, SealWithAMissingIndexNamesIt) {
  Fill(0, 10);
  EXPECT_THAT(client_->SealRange(kName, Range(0, 11), {}, Soon()),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("index 10 is missing")));
}

TEST_F(ServiceTest, BadReadsNameWhatIsWrong) {
  Fill(0, 10);
  EXPECT_THAT(client_->ReadTriples(kName, {1, 10}, Soon()),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("datasets/d1 index 10 is absent")));
  EXPECT_THAT(client_->ReadTriples("datasets/none", {1}, Soon()),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("datasets/none")));
  EXPECT_THAT(client_->ReadTriples(kName, std::vector<int64_t>(65, 1), Soon()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("it must be 1 to 64")));
  EXPECT_THAT(client_->ReadTriples(kName, {}, Soon()),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(ServiceTest, AnswersAsManyLargeLatentsAsTheLimitSays) {
  recipe_.set_latent_height(128);
  recipe_.set_latent_width(128);
  recipe_.set_storage_dtype(common::v1::DTYPE_FP32);
  const std::string large = "datasets/large";
  ASSERT_THAT(client_->OpenDataset(large, recipe_, Soon()), IsOk());
  std::vector<int64_t> indices(static_cast<size_t>(store::IndicesPerRead(recipe_)), 0);
  ASSERT_EQ(indices.size(), 60u);
  ASSERT_OK_AND_ASSIGN(const auto session,
                       client_->Append({.dataset = large, .range = Range(0, 1)}, Soon()));
  ASSERT_THAT(session->Write({TestTriple(0, recipe_)}, Soon()), IsOk());
  ASSERT_THAT(session->Finish(Soon()), IsOk());
  ASSERT_OK_AND_ASSIGN(const auto triples, client_->ReadTriples(large, indices, Soon()));
  EXPECT_EQ(triples.size(), indices.size());
  indices.push_back(0);
  EXPECT_THAT(client_->ReadTriples(large, indices, Soon()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("15728640 bytes")));
}

TEST_F(ServiceTest, OneAttemptReads) {
  Fill(0, 10);
  ASSERT_OK_AND_ASSIGN(const auto triples,
                       client_->ReadTriplesOnce(kName, {3, 4}, absl::Seconds(20)));
  EXPECT_EQ(triples[1].index(), 4);
}

TEST_F(ServiceTest, InvalidateAndDrop) {
  Fill(0, 10);
  EXPECT_THAT(client_->InvalidateRange(kName, Range(0, 5), 1, Soon()),
              ::d2g::testing::IsOkAndHolds(5));
  EXPECT_THAT(client_->Append({.dataset = kName, .range = Range(0, 5)}, Soon()),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("invalidated")));
  EXPECT_THAT(client_->Append({.dataset = kName, .range = Range(0, 5), .range_epoch = 1}, Soon()),
              IsOk());
  EXPECT_THAT(client_->DropDataset(kName, Soon()), IsOk());
  EXPECT_THAT(client_->ReadTriples(kName, {7}, Soon()), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(ServiceTest, VerifyStreamsASummary) {
  Fill(0, 100);
  int findings = 0;
  ASSERT_OK_AND_ASSIGN(const auto summary, client_->VerifyDataset(
                                               kName, [&](const auto&) { ++findings; }, Soon()));
  EXPECT_EQ(summary.checked(), 100);
  EXPECT_EQ(findings, 0);
  EXPECT_THAT(client_->VerifyDataset(
                  "datasets/none", [](const auto&) {}, Soon()),
              StatusIs(absl::StatusCode::kNotFound));
}

// What a client that breaks the stream's protocol gets.
class RawStream {
 public:
  explicit RawStream(const std::string& address)
      : stub_(v1::TripleService::NewStub(common::MakeChannel(address))) {
    common::SetDeadline(&context_, absl::Seconds(20));
    stream_ = stub_->AppendTriples(&context_);
  }
  void Write(const v1::AppendTriplesRequest& request) { stream_->Write(request); }
  absl::Status End() {
    stream_->WritesDone();
    v1::AppendTriplesResponse response;
    while (stream_->Read(&response)) {
    }
    return common::FromGrpcStatus(stream_->Finish());
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<v1::TripleService::Stub> stub_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::AppendTriplesRequest, v1::AppendTriplesResponse>>
      stream_;
};

TEST_F(ServiceTest, ProtocolErrorsEndTheStream) {
  v1::AppendTriplesRequest open;
  *open.mutable_open()->mutable_key() = Key();
  *open.mutable_open()->mutable_range() = Range(0, 10);
  v1::AppendTriplesRequest batch;
  *batch.mutable_batch()->add_triples() = TestTriple(0, recipe_);
  v1::AppendTriplesRequest outside;
  *outside.mutable_batch()->add_triples() = TestTriple(10, recipe_);
  v1::AppendTriplesRequest crowded;
  for (int i = 0; i < 65; ++i) *crowded.mutable_batch()->add_triples() = TestTriple(0, recipe_);
  const auto expect = [&](const std::vector<v1::AppendTriplesRequest>& messages,
                          const std::string& text) {
    RawStream stream(listen_);
    for (const auto& message : messages) stream.Write(message);
    EXPECT_THAT(stream.End(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(text)));
  };
  expect({batch}, "the first message must be open");
  expect({open, open}, "open was sent twice");
  expect({{}}, "the message is empty");
  expect({open, outside}, "index 10 is not in the range opened, [0, 10)");
  expect({open, crowded}, "65 triples");
  RawStream fine(listen_);
  fine.Write(open);
  fine.Write(batch);
  EXPECT_THAT(fine.End(), IsOk());
  RawStream nothing(listen_);
  EXPECT_THAT(nothing.End(), IsOk());
}

TEST_F(ServiceTest, ManyStreamsAtOnce) {
  constexpr int kStreams = 6;
  std::vector<std::thread> threads;
  for (int t = 0; t < kStreams; ++t) {
    threads.emplace_back([&, t] {
      const int64_t first = 1024 * t;
      const auto session =
          client_->Append({.dataset = kName, .range = Range(first, first + 1024)}, Soon());
      ASSERT_THAT(session, IsOk());
      for (int64_t i = first; i < first + 1024; i += 16) {
        ASSERT_THAT((*session)->Write(Triples(i, i + 16), Soon()), IsOk());
      }
      const auto totals = (*session)->Finish(Soon());
      ASSERT_THAT(totals, IsOk());
      EXPECT_EQ(totals->written, 1024);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(client_->GetStats(Soon())->datasets(0).present_count(), kStreams * 1024);
}

TEST_F(ServiceTest, AbandonedStreamsEnd) {
  {
    ASSERT_OK_AND_ASSIGN(const auto session,
                         client_->Append({.dataset = kName, .range = Range(0, 100)}, Soon()));
    ASSERT_THAT(session->Write(Triples(0, 10), Soon()), IsOk());
  }
  EXPECT_TRUE(WaitFor([&] {
    return HttpGet(app_->admin_port(), "/metrics")
               .find("d2g_rpc_open_streams{method=\"TripleService/AppendTriples\"} 0") !=
           std::string::npos;
  }));
}

TEST_F(ServiceTest, IsNotReadyWhileItStops) {
  ASSERT_OK_AND_ASSIGN(auto session,
                       client_->Append({.dataset = kName, .range = Range(0, 100)}, Soon()));
  EXPECT_THAT(HttpGet(app_->admin_port(), "/readyz"), HasSubstr("200 OK"));
  // Waits for the open stream.
  const int admin_port = app_->admin_port();
  std::thread stopper([&] { app_->Stop(absl::Seconds(20)); });
  EXPECT_TRUE(WaitFor(
      [&] { return HttpGet(admin_port, "/readyz").find("is stopping") != std::string::npos; }));
  session.reset();
  stopper.join();
}

TEST_F(ServiceTest, SessionAndReadsOutliveARestartOfTheShard) {
  ASSERT_OK_AND_ASSIGN(const auto session,
                       client_->Append({.dataset = kName, .range = Range(0, 200)}, Soon()));
  ASSERT_THAT(session->Write(Triples(0, 50), Soon()), IsOk());
  app_.reset();
  std::thread restarter([this] { Start(listen_); });
  for (int64_t i = 50; i < 200; i += 10) {
    EXPECT_THAT(session->Write(Triples(i, i + 10), Soon()), IsOk());
  }
  const auto totals = session->Finish(Soon());
  restarter.join();
  ASSERT_THAT(totals, IsOk());
  EXPECT_EQ(totals->written + totals->repeated, 200);
  EXPECT_EQ(client_->GetStats(Soon())->datasets(0).present_count(), 200);
  EXPECT_THAT(client_->SealRange(kName, Range(0, 200), {}, Soon()), IsOk());
  EXPECT_THAT(client_->ReadTriples(kName, {199}, Soon()), IsOk());
}

// A shard that stops: it cancels every first call.
class StoppingShard final : public v1::TripleService::Service {
 public:
  StoppingShard() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.SetMaxReceiveMessageSize(common::kMaxMessageBytes);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~StoppingShard() override { server_->Shutdown(); }

  common::v1::ShardAddress address() const {
    common::v1::ShardAddress address;
    address.set_address("127.0.0.1:" + std::to_string(port_));
    return address;
  }

  grpc::Status GetStats(grpc::ServerContext*, const v1::GetStatsRequest*,
                        v1::GetStatsResponse*) override {
    return stats_calls_++ == 0 ? grpc::Status::CANCELLED : grpc::Status::OK;
  }
  grpc::Status ReadTriples(grpc::ServerContext*, const v1::ReadTriplesRequest*,
                           v1::ReadTriplesResponse*) override {
    return grpc::Status::CANCELLED;
  }
  grpc::Status AppendTriples(grpc::ServerContext*,
                             grpc::ServerReaderWriter<v1::AppendTriplesResponse,
                                                      v1::AppendTriplesRequest>* stream) override {
    v1::AppendTriplesRequest request;
    stream->Read(&request);
    if (streams_++ == 0) return grpc::Status::CANCELLED;
    v1::AppendTriplesResponse response;
    response.mutable_opened()->set_presence(
        std::string((request.open().range().end() - request.open().range().begin() + 7) / 8, 0));
    stream->Write(response);
    stream->Read(&request);
    if (streams_ == 2) return grpc::Status::CANCELLED;
    return {grpc::StatusCode::FAILED_PRECONDITION, "another store"};
  }
  int streams() const { return streams_; }

 private:
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  std::atomic<int> stats_calls_ = 0;
  std::atomic<int> streams_ = 0;
};

TEST_F(ServiceTest, AShardThatStopsIsUnavailableAndTriedAgain) {
  StoppingShard shard;
  TripleClient client(shard.address());
  EXPECT_THAT(client.GetStats(Soon()), IsOk());
  EXPECT_THAT(client.ReadTriplesOnce(kName, {0}, absl::Seconds(20)),
              StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(client.Append({.dataset = kName, .range = Range(0, 8)}, Soon()), IsOk());
}

TEST_F(ServiceTest, ARefusalWhileSendingAgainEndsTheSession) {
  StoppingShard shard;
  TripleClient client(shard.address());
  common::v1::DatasetRecipe recipe = recipe_;
  recipe.set_latent_height(512);
  recipe.set_latent_width(512);
  recipe.set_storage_dtype(common::v1::DTYPE_FP32);
  ASSERT_OK_AND_ASSIGN(const auto session,
                       client.Append({.dataset = kName, .range = Range(0, 8)}, Soon()));
  // Two messages of 4 MiB: the shard takes the first and ends the stream under the second.
  absl::Status status = session->Write({TestTriple(0, recipe), TestTriple(1, recipe)}, Soon());
  if (status.ok()) status = session->Finish(Soon()).status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("another store")));
  EXPECT_LE(shard.streams(), 4);
}

TEST_F(ServiceTest, ClientGivesUpAtItsDeadline) {
  app_.reset();
  EXPECT_THAT(client_->GetStats(absl::Now() + absl::Milliseconds(300)),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr(listen_)));
  EXPECT_THAT(client_->Append({.dataset = kName, .range = Range(0, 1)},
                              absl::Now() + absl::Milliseconds(300)),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr(listen_)));
}

TEST_F(ServiceTest, StopEndsRetrying) {
  absl::Notification stop;
  TripleClient client(client_->shard(), &stop);
  app_.reset();
  std::thread stopper([&] { stop.Notify(); });
  EXPECT_THAT(client.GetStats(absl::InfiniteFuture()), StatusIs(absl::StatusCode::kCancelled));
  stopper.join();
}

TEST_F(ServiceTest, MetricsMove) {
  Fill(0, 100);
  ASSERT_OK_AND_ASSIGN(const auto session,
                       client_->Append({.dataset = kName, .range = Range(0, 10)}, Soon()));
  ASSERT_THAT(session->Write(Triples(0, 10), Soon()), IsOk());
  ASSERT_THAT(client_->SealRange(kName, Range(0, 100), {}, Soon()), IsOk());
  ASSERT_THAT(client_->ReadTriples(kName, {1, 2, 3}, Soon()), IsOk());
  ASSERT_THAT(session->Finish(Soon()), IsOk());
  const std::string scrape = HttpGet(app_->admin_port(), "/metrics");
  for (const char* line :
       {"d2g_store_appended_triples_total 100", "d2g_store_appended_bytes_total 51200",
        "d2g_store_repeated_appends_total 10", "d2g_store_sealed_triples_total 100",
        "d2g_store_read_triples_total 3", "d2g_store_read_bytes_total 1536",
        "d2g_store_read_seconds_count 3", "d2g_store_checksum_failures_total 0",
        "d2g_rpc_handled_total{code=\"OK\",method=\"TripleService/SealRange\"} 1"}) {
    EXPECT_THAT(scrape, HasSubstr(line));
  }
  for (const char* family : {"d2g_store_append_batch_seconds_count",
                             "d2g_store_commit_seconds_count", "d2g_store_free_bytes"}) {
    EXPECT_THAT(scrape,
                AllOf(HasSubstr(family), ::testing::Not(HasSubstr(std::string(family) + " 0\n"))));
  }
  EXPECT_THAT(HttpGet(app_->admin_port(), "/readyz"), HasSubstr("200 OK"));
}

}  // namespace
}  // namespace d2g::store

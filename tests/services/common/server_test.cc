// RPC server, channel, metrics and admin port, all for real on loopback.
#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "d2g/store/v1/triple_service.grpc.pb.h"
#include "gmock/gmock.h"
#include "grpcpp/generic/generic_stub.h"
#include "gtest/gtest.h"
#include "services/common/address.h"
#include "services/common/admin_server.h"
#include "services/common/channel.h"
#include "services/common/grpc_library.h"
#include "services/common/grpc_status.h"
#include "services/common/log.h"
#include "services/common/metrics.h"
#include "services/common/rpc_server.h"
#include "services/common/utf8.h"
#include "tests/testing/http_get.h"
#include "tests/testing/slow_client.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/wait.h"

namespace d2g::common {
namespace {

using ::d2g::testing::HttpGet;
using ::d2g::testing::IsOk;
using ::d2g::testing::SlowClient;
using ::d2g::testing::StatusIs;
using ::d2g::testing::WaitFor;
using ::testing::AllOf;
using ::testing::HasSubstr;

// Ends when the client has sent all it wants.
class QuietAppend final : public grpc::ServerBidiReactor<store::v1::AppendTriplesRequest,
                                                         store::v1::AppendTriplesResponse> {
 public:
  QuietAppend() { StartRead(&request_); }
  void OnReadDone(bool ok) override {
    if (ok) {
      StartRead(&request_);
    } else {
      Finish(grpc::Status::OK);
    }
  }
  void OnDone() override { delete this; }

 private:
  store::v1::AppendTriplesRequest request_;
};

// Answers GetStats with shard 7 and takes quiet appends; everything else is UNIMPLEMENTED.
class FakeTripleService final : public store::v1::TripleService::CallbackService {
  grpc::ServerUnaryReactor* GetStats(grpc::CallbackServerContext* context,
                                     const store::v1::GetStatsRequest*,
                                     store::v1::GetStatsResponse* response) override {
    response->set_shard(7);
    auto* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
  grpc::ServerBidiReactor<store::v1::AppendTriplesRequest, store::v1::AppendTriplesResponse>*
  AppendTriples(grpc::CallbackServerContext*) override {
    return new QuietAppend();
  }
  grpc::ServerUnaryReactor* DropDataset(grpc::CallbackServerContext* context,
                                        const store::v1::DropDatasetRequest*,
                                        store::v1::DropDatasetResponse*) override {
    auto* reactor = context->DefaultReactor();
    reactor->Finish(ToGrpcStatus(BadRequest({{"key.dataset", "is empty"}})));
    return reactor;
  }
};

// A method by its path, with an empty request.
absl::Status CallByPath(const std::shared_ptr<grpc::Channel>& channel, const std::string& path,
                        std::string* answer = nullptr) {
  grpc::TemplatedGenericStub<grpc::ByteBuffer, grpc::ByteBuffer> stub(channel);
  grpc::ClientContext context;
  SetDeadline(&context, absl::Seconds(10));
  const grpc::Slice empty;
  const grpc::ByteBuffer request(&empty, 1);
  grpc::ByteBuffer response;
  absl::Notification done;
  absl::Status result;
  stub.UnaryCall(&context, path, grpc::StubOptions(), &request, &response,
                 [&](const grpc::Status& status) {
                   result = FromGrpcStatus(status);
                   done.Notify();
                 });
  done.WaitForNotification();
  grpc::Slice slice;
  if (answer != nullptr && result.ok() && response.DumpToSingleSlice(&slice).ok()) {
    answer->assign(slice.begin(), slice.end());
  }
  return result;
}

// What the health service answers about the server as a whole: NOT_SERVING is "\x08\x02".
std::string Health(const std::shared_ptr<grpc::Channel>& channel) {
  std::string answer;
  const absl::Status status = CallByPath(channel, "/grpc.health.v1.Health/Check", &answer);
  return status.ok() ? answer : std::string(status.message());
}

// Lines of a scrape that begin with `prefix`.
int CountSeries(const std::string& scrape, const std::string& prefix) {
  const std::vector<std::string> lines = absl::StrSplit(scrape, '\n');
  return static_cast<int>(std::count_if(lines.begin(), lines.end(), [&](const std::string& line) {
    return absl::StartsWith(line, prefix);
  }));
}

class ServerTest : public ::testing::Test {
 protected:
  void Start() {
    RpcServerOptions options;
    options.metrics = &metrics_;
    auto server =
        RpcServer::Start("127.0.0.1:0", {Serve<store::v1::TripleService>(&service_)}, options);
    ASSERT_THAT(server, IsOk());
    server_ = *std::move(server);
    stub_ = store::v1::TripleService::NewStub(MakeChannel(server_->address()));
  }

  Metrics metrics_{"tester"};
  FakeTripleService service_;
  std::unique_ptr<RpcServer> server_;
  std::unique_ptr<store::v1::TripleService::Stub> stub_;
};

TEST_F(ServerTest, ServesCallsAndCountsThem) {
  Start();
  grpc::ClientContext context;
  SetDeadline(&context, absl::Seconds(10));
  store::v1::GetStatsResponse response;
  ASSERT_THAT(FromGrpcStatus(stub_->GetStats(&context, {}, &response)), IsOk());
  EXPECT_EQ(response.shard(), 7);
  EXPECT_THAT(
      metrics_.Expose(),
      AllOf(HasSubstr("d2g_rpc_handled_total{code=\"OK\",method=\"TripleService/GetStats\"} 1"),
            HasSubstr("d2g_rpc_seconds_bucket{method=\"TripleService/GetStats\"")));
}

TEST_F(ServerTest, MethodsThatACallerMakesUpMakeNoSeries) {
  Start();
  const auto channel = MakeChannel(server_->address());
  EXPECT_THAT(CallByPath(channel, "/d2g.store.v1.TripleService/GetStats"), IsOk());
  EXPECT_THAT(CallByPath(channel, "/grpc.health.v1.Health/Check"), IsOk());
  const int before = CountSeries(metrics_.Expose(), "d2g_rpc");
  const absl::StatusCode unimplemented = absl::StatusCode::kUnimplemented;
  for (int i = 0; i < 300; ++i) {
    for (const std::string& path :
         {absl::StrCat("/d2g.store.v1.TripleService/Nope", i),
          absl::StrCat("/evil", i, ".TripleService/GetStats"), absl::StrCat("/", i)}) {
      ASSERT_THAT(CallByPath(channel, path), StatusIs(unimplemented)) << path;
    }
  }
  EXPECT_THAT(CallByPath(channel, "/a.B/\xff\xfe"), StatusIs(unimplemented));
  const std::string scrape = metrics_.Expose();
  EXPECT_EQ(CountSeries(scrape, "d2g_rpc"), before + 1);
  EXPECT_THAT(
      scrape,
      AllOf(HasSubstr("d2g_rpc_handled_total{code=\"UNIMPLEMENTED\",method=\"other\"} 901\n"),
            HasSubstr("d2g_rpc_handled_total{code=\"OK\",method=\"TripleService/GetStats\"} 1\n"),
            HasSubstr("d2g_rpc_handled_total{code=\"OK\",method=\"Health/Check\"} 1\n")));
  EXPECT_TRUE(IsUtf8(scrape));
}

TEST_F(ServerTest, StreamsAreCountedWhileOpenAndNotTimed) {
  Start();
  const std::string open = "d2g_rpc_open_streams{method=\"TripleService/AppendTriples\"} ";
  EXPECT_THAT(metrics_.Expose(), HasSubstr(open + "0\n"));
  grpc::ClientContext context;
  SetDeadline(&context, absl::Seconds(10));
  const auto stream = stub_->AppendTriples(&context);
  EXPECT_TRUE(WaitFor([&] { return absl::StrContains(metrics_.Expose(), open + "1\n"); }));
  ASSERT_TRUE(stream->WritesDone());
  ASSERT_THAT(FromGrpcStatus(stream->Finish()), IsOk());
  EXPECT_TRUE(WaitFor([&] { return absl::StrContains(metrics_.Expose(), open + "0\n"); }));
  const std::string scrape = metrics_.Expose();
  EXPECT_THAT(
      scrape,
      HasSubstr("d2g_rpc_handled_total{code=\"OK\",method=\"TripleService/AppendTriples\"} 1\n"));
  EXPECT_EQ(CountSeries(scrape, "d2g_rpc_seconds"), 0);
}

TEST_F(ServerTest, IsNotServingWhileCallsEnd) {
  Start();
  const auto channel = MakeChannel(server_->address());
  EXPECT_EQ(Health(channel), "\x08\x01");
  grpc::ClientContext context;
  SetDeadline(&context, absl::Seconds(20));
  const auto stream = stub_->AppendTriples(&context);
  EXPECT_TRUE(WaitFor([&] {
    return absl::StrContains(metrics_.Expose(),
                             "d2g_rpc_open_streams{method=\"TripleService/AppendTriples\"} 1\n");
  }));
  std::thread stop([&] { server_->Shutdown(absl::Seconds(20)); });
  EXPECT_TRUE(WaitFor([&] { return Health(channel) == "\x08\x02"; }));
  stream->WritesDone();
  EXPECT_THAT(FromGrpcStatus(stream->Finish()), IsOk());
  stop.join();
}

TEST_F(ServerTest, ErrorDetailsReachTheClient) {
  Start();
  grpc::ClientContext context;
  SetDeadline(&context, absl::Seconds(10));
  store::v1::DropDatasetResponse response;
  const absl::Status status = FromGrpcStatus(stub_->DropDataset(&context, {}, &response));
  EXPECT_THAT(status,
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("key.dataset: is empty")));
  ASSERT_EQ(FieldViolations(status).size(), 1u);
  EXPECT_EQ(FieldViolations(status)[0].field, "key.dataset");
}

// Bytes that are no message of the method, and a string that is not UTF-8 (field 1 of each).
constexpr absl::string_view kUnreadable[] = {"\xff\xff", "\x0a\x02\xc3\x28"};

TEST_F(ServerTest, ARequestThatCannotBeReadIsToldSo) {
  Start();
  grpc::GenericStub stub(MakeChannel(server_->address()));
  for (const absl::string_view bytes : kUnreadable) {
    for (const char* method : {"DropDataset", "VerifyDataset"}) {  // one answer, and many
      const grpc::Slice slice(bytes.data(), bytes.size());
      grpc::ByteBuffer request(&slice, 1), response;
      grpc::ClientContext context;
      SetDeadline(&context, absl::Seconds(10));
      grpc::Status status;
      absl::Notification done;
      stub.UnaryCall(&context, absl::StrCat("/d2g.store.v1.TripleService/", method), {}, &request,
                     &response, [&](const grpc::Status& result) {
                       status = result;
                       done.Notify();
                     });
      done.WaitForNotification();
      EXPECT_THAT(FromGrpcStatus(status),
                  StatusIs(absl::StatusCode::kInvalidArgument,
                           AllOf(HasSubstr(absl::StrCat("request of TripleService/", method)),
                                 HasSubstr("not UTF-8"))));
    }
  }
  EXPECT_THAT(metrics_.Expose(),
              HasSubstr("code=\"INVALID_ARGUMENT\",method=\"TripleService/DropDataset\"} 2"));
}

TEST_F(ServerTest, WhatProtobufSaysIsLoggedAsEverythingElseAndNotWithoutEnd) {
  Start();
  ASSERT_THAT(InitLog({.format = "json"}), IsOk());
  ::testing::internal::CaptureStderr();
  store::v1::DropDatasetRequest request;
  for (int i = 0; i < 100; ++i) {
    EXPECT_FALSE(
        request.ParseFromArray(kUnreadable[1].data(), static_cast<int>(kUnreadable[1].size())));
  }
  const std::string text = ::testing::internal::GetCapturedStderr();
  ASSERT_THAT(InitLog({}), IsOk());
  EXPECT_EQ(text.find("[libprotobuf"), std::string::npos) << text;
  EXPECT_LE(std::count(text.begin(), text.end(), '\n'), 2) << text;
}

TEST(ThrottleTest, PassesOnceAnIntervalAndCountsTheOthers) {
  Throttle throttle(absl::Seconds(10));
  int64_t held_back = -1;
  EXPECT_TRUE(throttle.Pass(absl::Seconds(1), &held_back));
  EXPECT_EQ(held_back, 0);
  EXPECT_FALSE(throttle.Pass(absl::Seconds(2), &held_back));
  EXPECT_FALSE(throttle.Pass(absl::Seconds(10.5), &held_back));
  EXPECT_TRUE(throttle.Pass(absl::Seconds(11), &held_back));
  EXPECT_EQ(held_back, 2);
}

TEST_F(ServerTest, PortInUseNamesTheAddress) {
  Start();
  EXPECT_THAT(RpcServer::Start(server_->address(), {}),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("cannot listen on " + server_->address()),
                             HasSubstr("Address already in use"))));
  EXPECT_THAT(AdminServer::Start(server_->address(), &metrics_, nullptr),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr(server_->address()), HasSubstr("already in use"))));
}

TEST_F(ServerTest, BeyondLoopbackIsRefusedWithoutInsecure) {
  EXPECT_THAT(RpcServer::Start("0.0.0.0:0", {}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("--insecure")));
  EXPECT_THAT(AdminServer::Start("0.0.0.0:0", &metrics_, nullptr),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("--insecure")));
  RpcServerOptions options;
  options.insecure = true;
  EXPECT_THAT(RpcServer::Start("0.0.0.0:0", {}, options), IsOk());
}

TEST_F(ServerTest, ClientSeesUnavailableAfterShutdown) {
  Start();
  server_->Shutdown(absl::ZeroDuration());
  grpc::ClientContext context;
  SetDeadline(&context, absl::Seconds(10));
  store::v1::GetStatsResponse response;
  EXPECT_THAT(FromGrpcStatus(stub_->GetStats(&context, {}, &response)),
              StatusIs(absl::StatusCode::kUnavailable));
}

TEST(AdminServerTest, ServesMetricsAndHealth) {
  Metrics metrics("tester");
  metrics.Counter("d2g_test_total", "A test.").Increment(3);
  absl::Status readiness = absl::UnavailableError("still loading");
  ASSERT_OK_AND_ASSIGN(const auto server,
                       AdminServer::Start("127.0.0.1:0", &metrics, [&] { return readiness; }));
  EXPECT_THAT(HttpGet(server->port(), "/metrics"),
              AllOf(HasSubstr("200 OK"), HasSubstr("d2g_test_total 3"),
                    HasSubstr("process_resident_memory_bytes"), HasSubstr("d2g_build_info")));
  EXPECT_THAT(HttpGet(server->port(), "/healthz"), HasSubstr("200 OK"));
  EXPECT_THAT(HttpGet(server->port(), "/readyz"),
              AllOf(HasSubstr("503"), HasSubstr("still loading")));
  readiness = absl::OkStatus();
  EXPECT_THAT(HttpGet(server->port(), "/readyz"), HasSubstr("200 OK"));
  EXPECT_THAT(HttpGet(server->port(), "/nothing"), HasSubstr("404"));
}

TEST(AdminServerTest, IsNotReadyOnceStopping) {
  Metrics metrics("tester");
  ASSERT_OK_AND_ASSIGN(const auto server, AdminServer::Start("127.0.0.1:0", &metrics, nullptr));
  EXPECT_THAT(HttpGet(server->port(), "/readyz"), HasSubstr("200 OK"));
  server->SetStopping();
  EXPECT_THAT(HttpGet(server->port(), "/readyz"), AllOf(HasSubstr("503"), HasSubstr("stopping")));
  EXPECT_THAT(HttpGet(server->port(), "/healthz"), HasSubstr("200 OK"));
}

// 64 clients that send a byte now and then, half a request, nothing, or read no answer, each of
// them back at once when it is hung up on.
TEST(AdminServerTest, SlowClientsSilenceNoProbe) {
  Metrics metrics("tester");
  for (int i = 0; i < 5'000; ++i) {
    // A large answer.
    metrics.Gauge("d2g_test_units", "A test.", {{"n", absl::StrCat(std::string(200, 'n'), i)}});
  }
  ASSERT_OK_AND_ASSIGN(const auto server, AdminServer::Start("127.0.0.1:0", &metrics, nullptr));
  std::atomic<bool> done{false};
  std::atomic<int> hung_up{0};
  std::thread attack([&] {
    std::vector<std::unique_ptr<SlowClient>> clients(64);
    while (!done) {
      for (size_t i = 0; i < clients.size(); ++i) {
        if (clients[i] != nullptr && clients[i]->IsOpen()) {
          if (i % 4 == 0) clients[i]->Send("x");
          continue;
        }
        if (clients[i] != nullptr) ++hung_up;
        clients[i] = std::make_unique<SlowClient>(server->port());
        if (i % 4 == 0) clients[i]->Send("GET /healthz HTTP/1.1\r\nX: ");
        if (i % 4 == 1) clients[i]->Send("GET /met");
        if (i % 4 == 2) clients[i]->Send("GET /metrics HTTP/1.1\r\n\r\n");
      }
      WaitFor([&] { return done.load(); }, absl::Milliseconds(50));
    }
  });
  // Until every client but those that may have got their whole answer was hung up on.
  const absl::Time start = absl::Now();
  int probes = 0;
  while (hung_up < 48 && absl::Now() - start < absl::Seconds(30)) {
    for (const char* path : {"/healthz", "/readyz", "/metrics"}) {
      const absl::Time asked = absl::Now();
      EXPECT_THAT(HttpGet(server->port(), path).substr(0, 15), HasSubstr("200 OK")) << path;
      EXPECT_LT(absl::Now() - asked, absl::Seconds(1)) << path;
      ++probes;
    }
  }
  done = true;
  attack.join();
  EXPECT_GE(hung_up, 48);
  EXPECT_GE(probes, 10);
}

TEST(MetricsTest, SameNameAndLabelsIsTheSameMetric) {
  Metrics metrics("tester");
  metrics.Counter("d2g_x_total", "X.", {{"kind", "a"}}).Increment();
  metrics.Counter("d2g_x_total", "X.", {{"kind", "a"}}).Increment();
  metrics.Counter("d2g_x_total", "X.", {{"kind", "b"}}).Increment();
  EXPECT_THAT(metrics.Expose(), AllOf(HasSubstr("d2g_x_total{kind=\"a\"} 2"),
                                      HasSubstr("d2g_x_total{kind=\"b\"} 1")));
}

}  // namespace
}  // namespace d2g::common

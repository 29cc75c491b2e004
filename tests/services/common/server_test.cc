// RPC server, channel, metrics and admin port, all for real on loopback.
#include <algorithm>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
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
#include "tests/testing/http_get.h"
#include "tests/testing/status_matchers.h"

namespace d2g::common {
namespace {

using ::d2g::testing::HttpGet;
using ::d2g::testing::IsOk;
using ::d2g::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

// Answers GetStats with shard 7 and everything else with UNIMPLEMENTED.
class FakeTripleService final : public store::v1::TripleService::CallbackService {
  grpc::ServerUnaryReactor* GetStats(grpc::CallbackServerContext* context,
                                     const store::v1::GetStatsRequest*,
                                     store::v1::GetStatsResponse* response) override {
    response->set_shard(7);
    auto* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
  grpc::ServerUnaryReactor* DropDataset(grpc::CallbackServerContext* context,
                                        const store::v1::DropDatasetRequest*,
                                        store::v1::DropDatasetResponse*) override {
    auto* reactor = context->DefaultReactor();
    reactor->Finish(ToGrpcStatus(BadRequest({{"key.dataset", "is empty"}})));
    return reactor;
  }
};

class ServerTest : public ::testing::Test {
 protected:
  void Start() {
    RpcServerOptions options;
    options.metrics = &metrics_;
    auto server = RpcServer::Start("127.0.0.1:0", {&service_}, options);
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

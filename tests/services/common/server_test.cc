// RPC server, channel, metrics and admin port, all for real on loopback.
#include <memory>
#include <string>

#include "d2g/store/v1/triple_service.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/common/address.h"
#include "services/common/admin_server.h"
#include "services/common/channel.h"
#include "services/common/grpc_status.h"
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

// ShardReporter against a coordinator made for the test.
#include "services/store/shard_reporter.h"

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/common/grpc_status.h"
#include "services/common/rpc_server.h"
#include "services/store/memory_engine.h"
#include "tests/services/store/store_test_util.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/wait.h"

namespace d2g::store {
namespace {

using ::d2g::testing::IsOk;
using ::d2g::testing::StatusIs;
using ::d2g::testing::WaitFor;
using ::testing::HasSubstr;
using testing::Range;
using testing::SmallRecipe;
using testing::TestTriple;
using namespace d2g::coordinator::v1;  // NOLINT: the test's subject.

// Keeps what it is told; answers what it is set to.
class FakeShardService final : public ShardService::CallbackService {
 public:
  grpc::ServerUnaryReactor* ShardHeartbeat(grpc::CallbackServerContext* context,
                                           const ShardHeartbeatRequest* request,
                                           ShardHeartbeatResponse* response) override {
    auto* reactor = context->DefaultReactor();
    absl::MutexLock lock(&mutex_);
    context->AddInitialMetadata("d2g-incarnation", absl::StrCat(incarnation_));
    ++heartbeats_;
    last_ = *request;
    response->mutable_heartbeat_interval()->set_nanos(10'000'000);
    for (const std::string& name : wanted_seals_) response->add_report_seals(name);
    for (const std::string& name : dropped_) response->add_drop_datasets(name);
    wanted_seals_.clear();
    reactor->Finish(common::ToGrpcStatus(answer_));
    return reactor;
  }
  grpc::ServerUnaryReactor* ReportSeals(grpc::CallbackServerContext* context,
                                        const ReportSealsRequest* request,
                                        ReportSealsResponse*) override {
    auto* reactor = context->DefaultReactor();
    absl::MutexLock lock(&mutex_);
    seals_.push_back(*request);
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  absl::Mutex mutex_;
  int64_t incarnation_ = 5;
  int heartbeats_ = 0;
  absl::Status answer_;
  ShardHeartbeatRequest last_;
  std::vector<ReportSealsRequest> seals_;
  std::set<std::string> wanted_seals_;
  std::set<std::string> dropped_;
};

class ReporterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    store_ = TripleStore::Create(std::make_unique<MemoryEngine>(), {}).value();
    ASSERT_THAT(store_->OpenDataset("datasets/a", SmallRecipe()), IsOk());
    for (int64_t i = 0; i < 10; ++i) {
      const auto triple = TestTriple(i, SmallRecipe());
      const v1::Triple* const batch[] = {&triple};
      ASSERT_THAT(store_->Append("datasets/a", 0, batch), IsOk());
    }
    ASSERT_THAT(store_->Seal("datasets/a", Range(0, 10), {}), IsOk());
  }

  void StartCoordinator(const std::string& listen) {
    absl::StatusOr<std::unique_ptr<common::RpcServer>> server;
    ASSERT_TRUE(WaitFor([&] {
      return (server = common::RpcServer::Start(listen, {common::Serve<ShardService>(&service_)}))
          .ok();
    }));
    server_ = *std::move(server);
  }
  void StartReporter(const std::string& coordinator) {
    reporter_ =
        std::make_unique<ShardReporter>(store_.get(), &metrics_, coordinator, "10.0.0.7:7000");
  }
  template <typename Condition>
  bool Eventually(Condition condition) {
    return WaitFor([&] {
      absl::MutexLock lock(&service_.mutex_);
      return condition();
    });
  }

  FakeShardService service_;
  std::unique_ptr<common::RpcServer> server_;
  common::Metrics registry_{"tester"};
  StoreMetrics metrics_{&registry_};
  std::unique_ptr<TripleStore> store_;
  std::unique_ptr<ShardReporter> reporter_;
};

TEST_F(ReporterTest, TellsWhoItIsAndWhatItHolds) {
  StartCoordinator("127.0.0.1:0");
  StartReporter(server_->address());
  ASSERT_TRUE(Eventually([&] { return service_.heartbeats_ >= 2; }));
  absl::MutexLock lock(&service_.mutex_);
  EXPECT_EQ(service_.last_.shard().address(), "10.0.0.7:7000");
  EXPECT_EQ(service_.last_.shard().store_uuid(), store_->uuid());
  ASSERT_EQ(service_.last_.datasets_size(), 1);
  EXPECT_EQ(service_.last_.datasets(0).sealed_count(), 10);
  EXPECT_EQ(service_.last_.datasets(0).digest(), store_->Stats()[0].digest());
}

TEST_F(ReporterTest, SendsFullListsWhenAsked) {
  service_.wanted_seals_ = {"datasets/a", "datasets/never-heard-of"};
  StartCoordinator("127.0.0.1:0");
  StartReporter(server_->address());
  ASSERT_TRUE(Eventually([&] { return service_.seals_.size() == 2; }));
  absl::MutexLock lock(&service_.mutex_);
  EXPECT_EQ(service_.seals_[0].dataset(), "datasets/a");
  ASSERT_EQ(service_.seals_[0].ranges_size(), 1);
  EXPECT_EQ(service_.seals_[0].ranges(0).end(), 10);
  EXPECT_EQ(service_.seals_[0].sealed_count(), 10);
  EXPECT_EQ(service_.seals_[1].ranges_size(), 0);
}

TEST_F(ReporterTest, DropsDeletedDatasets) {
  service_.dropped_ = {"datasets/a"};
  StartCoordinator("127.0.0.1:0");
  StartReporter(server_->address());
  EXPECT_TRUE(WaitFor([&] { return store_->Stats().empty(); }));
}

TEST_F(ReporterTest, OutlivesACoordinatorThatIsDown) {
  StartCoordinator("127.0.0.1:0");
  const std::string address = server_->address();
  server_.reset();
  StartReporter(address);
  EXPECT_TRUE(WaitFor([&] { return absl::IsUnavailable(reporter_->LastOutcome()); }));
  StartCoordinator(address);
  EXPECT_TRUE(WaitFor([&] { return reporter_->LastOutcome().ok(); }));
  EXPECT_GT(metrics_.coordinator_contact.Value(), 0);
}

TEST_F(ReporterTest, RefusesAnOlderCoordinator) {
  StartCoordinator("127.0.0.1:0");
  StartReporter(server_->address());
  ASSERT_TRUE(WaitFor([&] { return reporter_->LastOutcome().ok(); }));
  {
    absl::MutexLock lock(&service_.mutex_);
    service_.incarnation_ = 4;
    service_.dropped_ = {"datasets/a"};
  }
  ASSERT_TRUE(WaitFor([&] { return !reporter_->LastOutcome().ok(); }));
  EXPECT_THAT(reporter_->LastOutcome(),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("incarnation 4, older than 5")));
  EXPECT_EQ(store_->Stats().size(), 1u);
}

TEST_F(ReporterTest, AShardNumberTakenByAnotherIsShown) {
  service_.answer_ = absl::AlreadyExistsError("shard 0 is another store");
  StartCoordinator("127.0.0.1:0");
  StartReporter(server_->address());
  EXPECT_TRUE(WaitFor([&] { return absl::IsAlreadyExists(reporter_->LastOutcome()); }));
}

}  // namespace
}  // namespace d2g::store

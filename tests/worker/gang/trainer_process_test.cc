// The d2g-trainer program with ranks that only pretend.
#include <csignal>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/common/port_file.h"
#include "services/common/program.h"
#include "tests/testing/fake_coordinator.h"
#include "tests/testing/http_get.h"
#include "tests/testing/process.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/wait.h"

namespace d2g::gang {
namespace {

using ::d2g::testing::ExitResult;
using ::d2g::testing::FakeCoordinator;
using ::d2g::testing::HttpGet;
using ::d2g::testing::Process;
using ::d2g::testing::WaitFor;
using ::testing::HasSubstr;
using Response = coordinator::v1::GangHeartbeatResponse;

// Nothing listens on it.
constexpr char kNobody[] = "127.0.0.1:1";

class TrainerProcessTest : public ::testing::Test {
 protected:
  void Start(const std::string& coordinator, const std::vector<std::string>& more = {}) {
    const std::string port_file = dir_.File("ports");
    std::vector<std::string> arguments = {
        "d2g-trainer", "--coordinator", coordinator,
        "--port-file", port_file,       "--slots",
        "2",           "--rank-binary", std::string(getenv("D2G_BIN_DIR")) + "/fake_rank"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    trainer_ = std::make_unique<Process>(arguments);
    ASSERT_TRUE(WaitFor([&] { return common::ReadPortFile(port_file).ok(); }))
        << trainer_->Output();
    admin_port_ = common::ReadPortFile(port_file)->admin;
  }
  // Ranks that do as `behaviour` says, once both have done a step.
  void RunRanks(const std::string& behaviour) {
    Response answer;
    answer.set_action(Response::ACTION_RUN);
    auto& assignment = *answer.mutable_assignment();
    assignment.set_job("jobs/a");
    assignment.set_generation(1);
    assignment.set_world_size(2);
    assignment.set_rank_count(2);
    assignment.mutable_work()->mutable_spec()->set_display_name(behaviour);
    coordinator_.training().SetAnswer(answer);
    ASSERT_TRUE(WaitFor([&] {
      const auto report = coordinator_.training().last();
      return report.ranks_size() == 2 && report.ranks(0).step() > 0 && report.ranks(1).step() > 0;
    })) << trainer_->Output();
  }

  testing::TempDir dir_;
  FakeCoordinator coordinator_;
  std::unique_ptr<Process> trainer_;
  int admin_port_ = 0;
};

TEST_F(TrainerProcessTest, IsReadyWithoutACoordinatorAndEndsWith0WhenNothingIsOpen) {
  Start(kNobody);
  EXPECT_THAT(HttpGet(admin_port_, "/readyz"), HasSubstr("200 OK"));
  trainer_->Signal(SIGTERM);
  const ExitResult end = trainer_->Wait();
  EXPECT_EQ(end.code, common::kExitOk) << end.output;
}

TEST_F(TrainerProcessTest, EndsWith75WhenItsRanksLeftBeforeTheyWereDone) {
  Start(coordinator_.address());
  RunRanks("");
  trainer_->Signal(SIGTERM);
  const ExitResult end = trainer_->Wait();
  EXPECT_EQ(end.code, common::kExitStopped) << end.output;
}

TEST_F(TrainerProcessTest, IsNotReadyWhileItsRanksLeave) {
  Start(coordinator_.address(), {"--leave-timeout", "3s"});
  RunRanks("stubborn");
  EXPECT_THAT(HttpGet(admin_port_, "/readyz"), HasSubstr("200 OK"));
  trainer_->Signal(SIGTERM);
  EXPECT_TRUE(WaitFor([&] {
    return HttpGet(admin_port_, "/readyz").find("is stopping") != std::string::npos;
  })) << trainer_->Output();
  EXPECT_THAT(HttpGet(admin_port_, "/healthz"), HasSubstr("200 OK"));
  const ExitResult end = trainer_->Wait();
  EXPECT_EQ(end.code, common::kExitStopped) << end.output;
}

}  // namespace
}  // namespace d2g::gang

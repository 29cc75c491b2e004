// Peers that nobody reaches: a shard that tells the cluster a wrong address, a coordinator that is
// not there.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>

#include "services/common/port_file.h"
#include "services/common/program.h"
#include "tests/testing/http_get.h"
#include "tests/testing/process.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/test_cluster.h"
#include "tests/testing/test_job.h"
#include "tests/testing/torch/tiny_teacher.h"
#include "tests/testing/wait.h"

namespace d2g {
namespace {

using ::d2g::coordinator::v1::Job;
using ::d2g::testing::IsOk;
using ::d2g::testing::Role;
using ::d2g::testing::RunProcess;
using ::d2g::testing::TestCluster;
using ::d2g::testing::WaitFor;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr int64_t kTriples = 192;
// Nothing listens on it.
constexpr char kNobody[] = "127.0.0.1:1";

TEST(UnreachableTest, DescribeNamesTheAddressAndTheJobGoesOnWithAnother) {
  testing::TestClusterOptions options;
  options.shards = 1;
  options.workers = 1;
  options.trainers = 0;
  options.lease_duration = absl::Seconds(4);
  options.store_flags = {"--advertise-address", kNobody};
  TestCluster cluster(options);
  testing::WriteTinyTeacher(cluster.dir().File("teacher"));
  ASSERT_THAT(cluster.Start(), IsOk()) << cluster.Logs();
  ASSERT_OK_AND_ASSIGN(
      const Job job,
      cluster.Submit(testing::MakeTestJob(cluster.dir().File("teacher"), cluster.dir().File("out"),
                                          kTriples, /*steps=*/10),
                     testing::kTestPrompts));
  const auto describe = [&] {
    return RunProcess(
               {"d2g", "describe", job.name(), "--coordinator", cluster.coordinator_address()})
        .output;
  };
  ASSERT_TRUE(WaitFor([&] { return describe().find("waits for the store") != std::string::npos; }))
      << describe() << cluster.Logs();
  EXPECT_THAT(describe(), AllOf(HasSubstr("node node-0: shard 0: store 127.0.0.1:1: "),
                                HasSubstr("check its --advertise-address")));
  // The worker gave the task back itself, and it is not counted.
  const std::string metrics = cluster.Scrape(Role::kCoordinator);
  EXPECT_THAT(metrics, HasSubstr("d2g_coordinator_tasks_lapsed_total{kind=\"simulate\"} 0"));
  EXPECT_THAT(describe(), Not(HasSubstr("task 0 failed")));

  cluster.Terminate(Role::kStore);
  cluster.SetStoreFlags({});
  ASSERT_THAT(cluster.Restart(Role::kStore), IsOk());
  EXPECT_TRUE(WaitFor([&] {
    coordinator::v1::GetJobRequest request;
    request.set_name(job.name());
    const auto now = cluster.client().GetJob(request, absl::Now() + absl::Seconds(10));
    return now.ok() && now->stages(0).done() == kTriples;
  })) << describe()
      << cluster.Logs();
  EXPECT_THAT(describe(), Not(HasSubstr("waits for the store")));
}

TEST(UnreachableTest, AWorkerIsReadyWithoutACoordinatorAndEndsWith0) {
  const testing::TempDir dir;
  const std::string port_file = dir.File("ports");
  testing::Process worker(
      {"d2g-worker", "--coordinator", kNobody, "--device", "cpu", "--port-file", port_file});
  ASSERT_TRUE(WaitFor([&] { return common::ReadPortFile(port_file).ok(); })) << worker.Output();
  EXPECT_THAT(testing::HttpGet(common::ReadPortFile(port_file)->admin, "/readyz"),
              HasSubstr("200 OK"));
  worker.Signal(SIGTERM);
  EXPECT_EQ(worker.Wait().code, common::kExitOk) << worker.Output();
}

}  // namespace
}  // namespace d2g

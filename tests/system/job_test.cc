// Whole jobs on whole clusters of real processes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>

#include "tests/testing/status_matchers.h"
#include "tests/testing/test_cluster.h"
#include "tests/testing/test_job.h"
#include "tests/testing/tiny_teacher.h"
#include "tests/testing/wait.h"

namespace d2g {
namespace {

using ::d2g::coordinator::v1::Job;
using ::d2g::testing::IsOk;
using ::d2g::testing::MemberId;
using ::d2g::testing::MovedFamilies;
using ::d2g::testing::Role;
using ::d2g::testing::TestCluster;
using ::testing::Each;
using ::testing::Ge;
using ::testing::SizeIs;

constexpr size_t kMovingFamilies = 8;

TEST(JobTest, RunsToItsEndAndEveryProcessShowsIt) {
  constexpr int64_t kTriples = 256;
  constexpr int64_t kSteps = 60;
  TestCluster cluster;
  testing::WriteTinyTeacher(cluster.dir().File("teacher"));
  ASSERT_THAT(cluster.Start(), IsOk()) << cluster.Logs();
  std::map<MemberId, std::string> before;
  for (const MemberId& member : cluster.members()) {
    before[member] = cluster.Scrape(member.first, member.second);
    ASSERT_THAT(before[member], ::testing::HasSubstr("d2g_build_info"))
        << testing::ProgramOf(member.first);
  }
  ASSERT_OK_AND_ASSIGN(
      const Job submitted,
      cluster.Submit(testing::MakeTestJob(cluster.dir().File("teacher"), cluster.dir().File("out"),
                                          kTriples, kSteps),
                     testing::kTestPrompts));
  ASSERT_OK_AND_ASSIGN(const Job job, cluster.WaitForEnd(submitted.name(), absl::Minutes(5)));
  ASSERT_EQ(job.state(), Job::STATE_SUCCEEDED) << job.DebugString() << cluster.Logs();
  EXPECT_EQ(job.checkpoint_step(), kSteps);
  for (const auto& stage : job.stages()) {
    EXPECT_EQ(stage.done(), stage.total()) << stage.DebugString();
  }
  EXPECT_TRUE(std::filesystem::exists(job.export_().path() + "/unet/config.json"));

  ASSERT_OK_AND_ASSIGN(const auto audit, cluster.Audit(job.dataset(), kTriples));
  EXPECT_EQ(audit.bad, 0);
  EXPECT_EQ(audit.present, kTriples);
  EXPECT_EQ(audit.checked, kTriples);
  EXPECT_THAT(audit.copies, Each(1));

  for (const MemberId& member : cluster.members()) {
    const auto moved = MovedFamilies(before[member], cluster.Scrape(member.first, member.second));
    EXPECT_THAT(moved, SizeIs(Ge(kMovingFamilies))) << testing::ProgramOf(member.first);
  }
  // All end cleanly when told to.
  for (const auto& [role, number] : cluster.members()) {
    if (role == Role::kCoordinator) continue;
    EXPECT_EQ(cluster.Terminate(role, number).code, 0) << testing::ProgramOf(role);
  }
  EXPECT_EQ(cluster.Terminate(Role::kCoordinator).code, 0);
}

}  // namespace
}  // namespace d2g

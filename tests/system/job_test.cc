// Whole jobs on whole clusters of real processes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <set>

#include "absl/time/clock.h"
#include "model/folder/model_folder.h"
#include "tests/testing/process.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/test_cluster.h"
#include "tests/testing/test_job.h"
#include "tests/testing/torch/tiny_teacher.h"
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
  // A trainer shows its ranks' figures only while they run.
  std::map<MemberId, std::set<std::string>> moved;
  const auto scrape = [&] {
    for (const MemberId& member : cluster.members()) {
      for (const std::string& family :
           MovedFamilies(before[member], cluster.Scrape(member.first, member.second))) {
        moved[member].insert(family);
      }
    }
  };
  EXPECT_TRUE(testing::WaitFor(
      [&] {
        scrape();
        return moved[MemberId(Role::kTrainer, 0)].contains("d2g_rank_step");
      },
      absl::Minutes(5)))
      << cluster.Logs();
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

  scrape();
  EXPECT_THAT(moved, SizeIs(cluster.members().size()));
  // One worker may have been quick enough to leave the other nothing.
  std::map<Role, std::set<std::string>> shown;
  for (const auto& [member, families] : moved) {
    shown[member.first].insert(families.begin(), families.end());
  }
  for (const auto& [role, families] : shown) {
    EXPECT_THAT(families, SizeIs(Ge(kMovingFamilies))) << testing::ProgramOf(role);
  }
  // All end cleanly when told to.
  for (const auto& [role, number] : cluster.members()) {
    if (role == Role::kCoordinator) continue;
    EXPECT_EQ(cluster.Terminate(role, number).code, 0) << testing::ProgramOf(role);
  }
  EXPECT_EQ(cluster.Terminate(Role::kCoordinator).code, 0);
}

// A folder is one job's, through every process that writes there.
TEST(JobTest, ASecondJobGetsTheFolderOfAnEndedOneOnlyWhenItAsks) {
  testing::TestClusterOptions options;
  options.workers = 1;
  TestCluster cluster(options);
  testing::WriteTinyTeacher(cluster.dir().File("teacher"));
  ASSERT_THAT(cluster.Start(), IsOk()) << cluster.Logs();
  const std::string out = cluster.dir().File("out");
  auto spec = testing::MakeTestJob(cluster.dir().File("teacher"), out, 256, /*steps=*/20);
  ASSERT_OK_AND_ASSIGN(const Job submitted, cluster.Submit(spec, testing::kTestPrompts));
  ASSERT_OK_AND_ASSIGN(const Job first, cluster.WaitForEnd(submitted.name(), absl::Minutes(5)));
  ASSERT_EQ(first.state(), Job::STATE_SUCCEEDED) << first.DebugString() << cluster.Logs();

  const auto soon = [] { return absl::Now() + absl::Minutes(1); };
  coordinator::v1::CreateJobRequest request;
  *request.mutable_spec() = first.spec();
  request.mutable_spec()->mutable_train()->set_steps(15);
  EXPECT_THAT(cluster.client().CreateJob(request, soon()),
              testing::StatusIs(absl::StatusCode::kInvalidArgument,
                                ::testing::HasSubstr("holds the output of " + first.name())));
  request.mutable_spec()->set_overwrite(true);
  ASSERT_OK_AND_ASSIGN(const Job taken, cluster.client().CreateJob(request, soon()));
  ASSERT_OK_AND_ASSIGN(const Job second, cluster.WaitForEnd(taken.name(), absl::Minutes(5)));
  ASSERT_EQ(second.state(), Job::STATE_SUCCEEDED) << second.DebugString() << cluster.Logs();
  EXPECT_EQ(second.export_().checkpoint_step(), 15);
  coordinator::v1::GetJobRequest get;
  get.set_name(first.name());
  ASSERT_OK_AND_ASSIGN(const Job old, cluster.client().GetJob(get, soon()));
  EXPECT_EQ(old.output_replaced_by(), second.name());
  const std::string set_aside = out + "/replaced/" + first.name().substr(sizeof("jobs/") - 1);
  ASSERT_OK_AND_ASSIGN(const std::string digest, model::FolderDigest(set_aside + "/export"));
  EXPECT_EQ(digest, first.export_().digest()) << "the first student, whole";
  EXPECT_FALSE(std::filesystem::is_empty(set_aside + "/checkpoints"));
}

// The demo teacher with its evaluator: short of steps, but through every stage.
TEST(JobTest, EvaluatesAndExportsTheDemoTeachersStudent) {
  constexpr int64_t kTriples = 128;
  constexpr int kPictures = 16;
  const std::string models = testing::SourcePath("demo");
  testing::TestClusterOptions options;
  options.workers = 1;
  TestCluster cluster(options);
  ASSERT_THAT(cluster.Start(), IsOk());
  auto spec = testing::MakeTestJob(models + "/teacher", cluster.dir().File("out"), kTriples,
                                   /*steps=*/12);
  spec.mutable_simulate()->set_min_triples(96);
  spec.mutable_train()->mutable_regression()->set_pseudo_huber_weight(1);
  spec.mutable_train()->mutable_regression()->set_features_weight(0.1);
  spec.mutable_train()->mutable_regression()->set_features_path(models + "/latent-features");
  spec.mutable_evaluate()->set_pictures(kPictures);
  spec.mutable_evaluate()->set_evaluator_path(models + "/evaluator");
  spec.mutable_evaluate()->set_timing_repeats(2);
  // Few prompts, so that some have several pictures: diversity is measured within a prompt.
  const std::string prompts = "a dark bag\na light dress\na grey coat\na photo of a sneaker\n";
  ASSERT_OK_AND_ASSIGN(const Job submitted, cluster.Submit(spec, prompts));
  ASSERT_OK_AND_ASSIGN(const Job job, cluster.WaitForEnd(submitted.name(), absl::Minutes(5)));
  ASSERT_EQ(job.state(), Job::STATE_SUCCEEDED) << job.DebugString() << cluster.Logs();
  ASSERT_EQ(job.evaluation().rows_size(), 3);
  for (const auto& row : job.evaluation().rows()) {
    EXPECT_EQ(row.pictures(), kPictures) << row.DebugString();
    EXPECT_GE(row.measures_size(), 4) << row.DebugString();
  }
  EXPECT_TRUE(std::filesystem::exists(job.evaluation().grid_path()));
  EXPECT_EQ(job.export_().checkpoint_step(), 12);
}

}  // namespace
}  // namespace d2g

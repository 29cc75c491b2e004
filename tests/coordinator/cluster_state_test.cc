// Jobs, datasets and shards: what is decided, and that it survives a restart.
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/spec/normal_spec.h"
#include "tests/coordinator/harness.h"
#include "tests/testing/status_matchers.h"

namespace d2g::coordinator {
namespace {

using ::d2g::testing::IsOk;
using ::d2g::testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using v1::Job;

constexpr auto kNotFound = absl::StatusCode::kNotFound;
constexpr auto kFailedPrecondition = absl::StatusCode::kFailedPrecondition;
constexpr auto kInvalidArgument = absl::StatusCode::kInvalidArgument;

TEST(JobsTest, TheSameRequestIdIsTheSameJobAlsoAfterARestart) {
  Harness h;
  ASSERT_OK_AND_ASSIGN(const Job first, h.Create(SmallSpec(), "request-1"));
  ASSERT_OK_AND_ASSIGN(const Job second, h.Create(SmallSpec(), "request-1"));
  EXPECT_EQ(second.name(), first.name());
  h.Restart();
  ASSERT_OK_AND_ASSIGN(const Job third, h.Create(SmallSpec(), "request-1"));
  EXPECT_EQ(third.name(), first.name());
  ASSERT_OK_AND_ASSIGN(const Job other, h.Create(SmallSpec("/tmp/other"), "request-2"));
  EXPECT_NE(other.name(), first.name());
}

TEST(JobsTest, ARequestIdWithAnotherSpecIsRefused) {
  Harness h;
  auto spec = SmallSpec();
  spec.mutable_prompts()->set_path("/home/me/prompts.txt");
  ASSERT_OK_AND_ASSIGN(const Job first, h.Create(spec, "request-1"));
  const auto again = [&](const std::function<void(v1::JobSpec*)>& change) {
    v1::JobSpec other = SmallSpec();
    change(&other);
    return h.Create(other, "request-1");
  };
  constexpr auto kAlreadyExists = absl::StatusCode::kAlreadyExists;
  EXPECT_THAT(
      again([](v1::JobSpec* s) { s->mutable_train()->set_steps(61); }),
      StatusIs(kAlreadyExists, HasSubstr("is that of jobs/job1, which asked for something else: "
                                         "spec.train.steps is 100 there and 61 here")));
  // The first of several, in the order of the fields.
  EXPECT_THAT(again([](v1::JobSpec* s) {
                s->set_output_dir("/tmp/other");
                s->mutable_train()->set_t0(0);
                s->set_display_name("caf\xc3\xa9");
              }),
              StatusIs(kAlreadyExists,
                       HasSubstr("spec.display_name is \"\" there and \"caf\xc3\xa9\" here")));
  EXPECT_THAT(again([](v1::JobSpec* s) { s->mutable_train()->set_t0(0); }),
              StatusIs(kAlreadyExists, HasSubstr("spec.train.t0 is not set there and 0 here")));
  EXPECT_THAT(again([](v1::JobSpec* s) { s->mutable_teacher()->set_digest(kPrompts); }),
              StatusIs(kAlreadyExists, HasSubstr("spec.teacher.digest")));
  // Alike: defaults written out, another spelling of a path, what the coordinator filled in, and
  // where the client read the list.
  const auto same = again([](v1::JobSpec* s) {
    s->mutable_train()->set_clip_norm(1);
    s->mutable_teacher()->set_path("/tmp/x/../teacher/");
    s->mutable_teacher()->set_digest(kTeacher);
    s->mutable_prompts()->set_path("/elsewhere");
  });
  ASSERT_THAT(same, IsOk());
  EXPECT_EQ(same->name(), first.name());
  h.Restart();
  EXPECT_THAT(again([](v1::JobSpec* s) { s->mutable_train()->set_steps(61); }),
              StatusIs(kAlreadyExists));
}

TEST(JobsTest, RefusesAnUnknownPromptListAndATakenOutputFolder) {
  Harness h;
  auto spec = SmallSpec();
  spec.mutable_prompts()->set_digest("xxh3-128:00000000000000000000000000000000");
  EXPECT_THAT(h.Create(spec), StatusIs(kInvalidArgument, HasSubstr("spec.prompts.digest")));
  ASSERT_THAT(h.Create(SmallSpec()), IsOk());
  EXPECT_THAT(h.Create(SmallSpec()), StatusIs(kInvalidArgument, HasSubstr("in use by jobs/job1")));
  EXPECT_THAT(h.Create(SmallSpec("/tmp/x/../out/")),
              StatusIs(kInvalidArgument, HasSubstr("\"/tmp/out\" is in use by jobs/job1")));
}

TEST(JobsTest, ValidateOnlyStoresNothing) {
  Harness h;
  const size_t rows = h.rows().size();
  JobProposal proposal;
  proposal.spec = SmallSpec();
  ASSERT_THAT(spec::NormalizeSpec(&proposal.spec), IsEmpty());
  proposal.teacher = {kTeacher, 4, 8, 8};
  proposal.validate_only = true;
  ASSERT_OK_AND_ASSIGN(const Job job, h.Decide([&](ClusterState& s, Moment now) {
    return s.CreateJob(proposal, now);
  }));
  EXPECT_EQ(job.spec().teacher().digest(), kTeacher);
  EXPECT_EQ(h.rows().size(), rows);
}

TEST(JobsTest, ListsNewestFirstInPages) {
  Harness h;
  for (int i = 0; i < 5; ++i) {
    ASSERT_THAT(h.Create(SmallSpec(absl::StrCat("/tmp/out", i))), IsOk());
  }
  v1::ListJobsRequest request;
  request.set_page_size(2);
  std::vector<std::string> names;
  do {
    ASSERT_OK_AND_ASSIGN(const auto page, h.Decide([&](ClusterState& s, Moment now) {
      return s.ListJobs(request, now);
    }));
    EXPECT_LE(page.jobs_size(), 2);
    for (const auto& job : page.jobs()) names.push_back(job.name());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  EXPECT_THAT(names, ElementsAre("jobs/job5", "jobs/job4", "jobs/job3", "jobs/job2", "jobs/job1"));
  request.set_page_token("nonsense");
  EXPECT_THAT(h.Decide([&](ClusterState& s, Moment now) { return s.ListJobs(request, now); }),
              StatusIs(kInvalidArgument, HasSubstr("page_token")));
}

TEST(JobsTest, CancelRevokesLeasesAndIsFinal) {
  Harness h;
  ASSERT_OK_AND_ASSIGN(const Job job, h.Create(SmallSpec()));
  const v1::Task task = h.LeaseOne("a");
  EXPECT_TRUE(h.Beat(task, 1));
  ASSERT_OK_AND_ASSIGN(const Job cancelled, h.SetDesired(job.name(), Job::DESIRED_STATE_CANCELLED));
  EXPECT_EQ(cancelled.state(), Job::STATE_CANCELLED);
  EXPECT_FALSE(h.Beat(task, 2)) << "the lease must be revoked";
  EXPECT_FALSE(h.LeaseOne("a").has_simulate());
  EXPECT_THAT(h.SetDesired(job.name(), Job::DESIRED_STATE_RUNNING),
              StatusIs(kFailedPrecondition, HasSubstr("has ended")));
  EXPECT_THAT(h.SetDesired(job.name(), Job::DESIRED_STATE_CANCELLED), IsOk());
}

TEST(JobsTest, PausedJobsLeaseNothingUntilTheyRunAgain) {
  Harness h;
  ASSERT_OK_AND_ASSIGN(const Job job, h.Create(SmallSpec()));
  const v1::Task task = h.LeaseOne("a");
  ASSERT_THAT(h.SetDesired(job.name(), Job::DESIRED_STATE_PAUSED), IsOk());
  EXPECT_EQ(h.Get(job.name()).state(), Job::STATE_PAUSED);
  EXPECT_FALSE(h.Beat(task, 1));
  EXPECT_FALSE(h.LeaseOne("a").has_simulate());
  h.Restart();
  EXPECT_EQ(h.Get(job.name()).state(), Job::STATE_PAUSED);
  ASSERT_THAT(h.SetDesired(job.name(), Job::DESIRED_STATE_RUNNING), IsOk());
  h.BeatShard(0);
  h.BeatShard(1);
  EXPECT_TRUE(h.LeaseOne("a").has_simulate());
}

TEST(JobsTest, OnlyEndedJobsAreDeletedAndNothingOfThemStays) {
  Harness h;
  ASSERT_OK_AND_ASSIGN(const Job job, h.Create(SmallSpec(), "request"));
  const auto remove = [&] {
    return h.Decide([&](ClusterState& s, Moment) { return s.DeleteJob(job.name()); });
  };
  EXPECT_THAT(remove(), StatusIs(kFailedPrecondition));
  ASSERT_THAT(h.SetDesired(job.name(), Job::DESIRED_STATE_CANCELLED), IsOk());
  EXPECT_THAT(remove(), IsOk());
  EXPECT_THAT(remove(), StatusIs(kNotFound, HasSubstr("jobs/job1")));
  ASSERT_OK_AND_ASSIGN(const Job again, h.Create(SmallSpec(), "request"));
  EXPECT_NE(again.name(), job.name());
}

TEST(DatasetsTest, JobsOfOneRecipeShareTheTriples) {
  Harness h;
  ASSERT_OK_AND_ASSIGN(const Job first, h.Create(SmallSpec("/tmp/a")));
  EXPECT_EQ(first.stages(0).reused(), 0);
  EXPECT_EQ(h.SimulateAll(), 8);
  auto spec = SmallSpec("/tmp/b");
  spec.mutable_simulate()->set_triples(160);
  spec.mutable_train()->set_learning_rate(0.1);  // not part of the recipe
  ASSERT_OK_AND_ASSIGN(const Job second, h.Create(spec));
  EXPECT_EQ(second.dataset(), first.dataset());
  EXPECT_EQ(second.stages(0).reused(), 128);
  EXPECT_EQ(second.stages(0).done(), 128);
  EXPECT_EQ(h.SimulateAll(), 2) << "only what is new";
  spec = SmallSpec("/tmp/c");
  spec.mutable_simulate()->set_seed(5);
  ASSERT_OK_AND_ASSIGN(const Job third, h.Create(spec));
  EXPECT_NE(third.dataset(), first.dataset());
}

TEST(DatasetsTest, TwoJobsNeverLeaseTheSameRange) {
  Harness h;
  ASSERT_THAT(h.Create(SmallSpec("/tmp/a")), IsOk());
  ASSERT_THAT(h.Create(SmallSpec("/tmp/b")), IsOk());
  std::set<int64_t> begins;
  for (int i = 0; i < 8; ++i) {
    const v1::Task task = h.LeaseOne(absl::StrCat("w", i));
    ASSERT_TRUE(task.has_simulate());
    EXPECT_TRUE(begins.insert(task.simulate().range().begin()).second);
  }
  EXPECT_FALSE(h.LeaseOne("w9").has_simulate());
}

TEST(DatasetsTest, DeletionIsRefusedWhileUsedAndReachesTheShards) {
  Harness h;
  ASSERT_OK_AND_ASSIGN(const Job job, h.Create(SmallSpec()));
  h.SimulateAll();
  const auto remove = [&] {
    return h.Decide([&](ClusterState& s, Moment) { return s.DeleteDataset(job.dataset()); });
  };
  EXPECT_THAT(remove(), StatusIs(kFailedPrecondition, HasSubstr(job.name())));
  ASSERT_THAT(h.SetDesired(job.name(), Job::DESIRED_STATE_CANCELLED), IsOk());
  const auto summaries = h.KnownSummaries(0);
  ASSERT_THAT(remove(), IsOk());
  EXPECT_THAT(remove(), StatusIs(kNotFound));
  h.Restart();
  ASSERT_OK_AND_ASSIGN(const auto told, h.BeatShard(0, summaries));
  EXPECT_THAT(told.drop_datasets(), ElementsAre(job.dataset()));
  ASSERT_OK_AND_ASSIGN(const auto done, h.BeatShard(0, {}));
  EXPECT_THAT(done.drop_datasets(), IsEmpty());
  EXPECT_EQ(h.Inspect([](ClusterState& s) { return s.datasets().dropped_count(); }), 1u)
      << "the other shard was not heard of yet";
  ASSERT_THAT(h.BeatShard(1, {}), IsOk());
  EXPECT_EQ(h.Inspect([](ClusterState& s) { return s.datasets().dropped_count(); }), 0u);
}

TEST(DatasetsTest, SnapshotsAreFrozen) {
  Harness h;
  ASSERT_OK_AND_ASSIGN(const Job job, h.Create(SmallSpec()));
  v1::GetOrCreateSnapshotRequest request;
  request.set_job(job.name());
  const auto get = [&] {
    return h.Decide([&](ClusterState& s, Moment) { return s.GetOrCreateSnapshot(request); });
  };
  EXPECT_THAT(get(), StatusIs(kFailedPrecondition, HasSubstr("0 sealed training triples")));
  ASSERT_THAT(h.Complete(h.LeaseOne("a"), "a"), IsOk());
  ASSERT_OK_AND_ASSIGN(const auto epoch0, get());
  ASSERT_EQ(epoch0.ranges_size(), 1);
  EXPECT_EQ(epoch0.ranges(0).end(), 16);
  h.SimulateAll();
  h.Restart();
  ASSERT_OK_AND_ASSIGN(const auto again, get());
  EXPECT_EQ(again.SerializeAsString(), epoch0.SerializeAsString());
  request.set_epoch(1);
  ASSERT_OK_AND_ASSIGN(const auto epoch1, get());
  EXPECT_EQ(epoch1.ranges(0).end(), 128);
  request.set_epoch(-1);
  EXPECT_THAT(get(), StatusIs(kInvalidArgument, HasSubstr("-1")));
}

TEST(ShardsTest, RangesOfAShardThatIsDownAreNotLeased) {
  Harness h;
  ASSERT_OK_AND_ASSIGN(const Job job, h.Create(SmallSpec()));
  h.StopShard(0);
  h.Advance(absl::Seconds(12));
  const v1::Task task = h.LeaseOne("a");
  EXPECT_EQ(task.simulate().shard().shard(), 1);
  EXPECT_EQ(task.simulate().range().begin(), 32);
  EXPECT_THAT(h.Get(job.name()).health(), ::testing::Contains("1 of 2 shards down: 0"));
  h.BeatShard(0);
  EXPECT_EQ(h.LeaseOne("b").simulate().range().begin(), 0);
}

TEST(ShardsTest, ANumberIsHeldByOneLivingStore) {
  Harness h;
  EXPECT_THAT(h.BeatShard(0, {}, "another"),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("uuid-0")));
  EXPECT_THAT(h.BeatShard(2, {}), StatusIs(kInvalidArgument, HasSubstr("not from 0 to 1")));
  h.StopShard(0);
  h.Advance(absl::Seconds(12));
  EXPECT_THAT(h.BeatShard(0, {}, "another"), IsOk());
}

TEST(ShardsTest, ARestartLeavesANumberToItsStoreForAWhile) {
  Harness h;
  h.Restart();
  EXPECT_THAT(h.BeatShard(0, {}, "another"),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("uuid-0")));
  EXPECT_THAT(h.BeatShard(0, {}), IsOk());
  h.Restart();
  h.StopShard(0);
  h.Advance(absl::Seconds(12));
  EXPECT_THAT(h.BeatShard(0, {}, "another"), IsOk());
}

TEST(ShardsTest, AnotherVolumeReopensWhatTheOldOneHeld) {
  Harness h;
  ASSERT_OK_AND_ASSIGN(const Job job, h.Create(SmallSpec()));
  h.SimulateAll();
  EXPECT_TRUE(h.Get(job.name()).stages(0).has_end_time());
  h.StopShard(0);
  h.Advance(absl::Seconds(12));
  ASSERT_THAT(h.BeatShard(0, {}, "another"), IsOk());
  EXPECT_EQ(h.Get(job.name()).stages(0).done(), 64);
  EXPECT_FALSE(h.Get(job.name()).stages(0).has_end_time());
  h.Restart();
  EXPECT_EQ(h.Get(job.name()).stages(0).done(), 64);
}

TEST(ShardsTest, AShardThatIsBehindReopensItsRanges) {
  Harness h;
  ASSERT_OK_AND_ASSIGN(const Job job, h.Create(SmallSpec()));
  h.SimulateAll();
  v1::DatasetSummary summary;
  summary.set_dataset(job.dataset());
  summary.set_sealed_count(48);
  summary.set_digest(Harness::Digest(0, 32) + Harness::Digest(64, 80));
  ASSERT_OK_AND_ASSIGN(const auto asked, h.BeatShard(0, {summary}));
  ASSERT_THAT(asked.report_seals(), ElementsAre(job.dataset()));
  v1::ReportSealsRequest report;
  report.mutable_shard()->set_shard(0);
  report.mutable_shard()->set_store_uuid("uuid-0");
  report.set_dataset(job.dataset());
  for (const auto& [begin, end] : {std::pair(0, 32), std::pair(64, 80)}) {
    report.add_ranges()->set_begin(begin);
    report.mutable_ranges(report.ranges_size() - 1)->set_end(end);
  }
  report.set_sealed_count(48);
  report.set_digest(summary.digest());
  ASSERT_THAT(h.Decide([&](ClusterState& s, Moment now) { return s.ReportSeals(report, now); }),
              IsOk());
  ASSERT_OK_AND_ASSIGN(const auto content, h.BeatShard(0, {summary}));
  EXPECT_THAT(content.report_seals(), IsEmpty());
  EXPECT_EQ(h.Get(job.name()).stages(0).done(), 112);
  const v1::Task lost = h.LeaseOne("a");
  EXPECT_EQ(lost.simulate().range().begin(), 80);
  EXPECT_EQ(lost.simulate().range().end(), 96);
}

TEST(ShardsTest, ADatasetThatAShardNoLongerListsIsGoneFromIt) {
  Harness h;
  ASSERT_OK_AND_ASSIGN(const Job job, h.Create(SmallSpec()));
  h.SimulateAll();
  ASSERT_THAT(h.BeatShard(1, {}), IsOk());
  EXPECT_EQ(h.Get(job.name()).stages(0).done(), 128) << "one heartbeat may be older than a seal";
  ASSERT_THAT(h.BeatShard(1, {}), IsOk());
  EXPECT_EQ(h.Get(job.name()).stages(0).done(), 64);
}

TEST(ShardsTest, WhatShardsHeldBeforeTheCoordinatorKnewIsReused) {
  Harness h;
  ASSERT_OK_AND_ASSIGN(const Job job, h.Create(SmallSpec()));
  v1::ReportSealsRequest report;
  report.mutable_shard()->set_shard(0);
  report.mutable_shard()->set_store_uuid("uuid-0");
  report.set_dataset(job.dataset());
  report.add_ranges()->set_end(32);
  report.set_sealed_count(32);
  ASSERT_THAT(h.Decide([&](ClusterState& s, Moment now) { return s.ReportSeals(report, now); }),
              IsOk());
  EXPECT_EQ(h.Get(job.name()).stages(0).reused(), 32);
  EXPECT_EQ(h.LeaseOne("a").simulate().range().begin(), 32);
}

TEST(ShardsTest, ReportsOfStrangersAreRefused) {
  Harness h;
  ASSERT_OK_AND_ASSIGN(const Job job, h.Create(SmallSpec()));
  v1::ReportSealsRequest report;
  report.mutable_shard()->set_store_uuid("stranger");
  report.set_dataset(job.dataset());
  EXPECT_THAT(h.Decide([&](ClusterState& s, Moment now) { return s.ReportSeals(report, now); }),
              StatusIs(kFailedPrecondition, HasSubstr("stranger")));
}

TEST(ShardsTest, SealsBeyondTheLargestDatasetAreRefused) {
  Harness h;
  ASSERT_OK_AND_ASSIGN(const Job job, h.Create(SmallSpec()));
  v1::ReportSealsRequest report;
  report.mutable_shard()->set_shard(0);
  report.mutable_shard()->set_store_uuid("uuid-0");
  report.set_dataset(job.dataset());
  report.add_ranges()->set_end(int64_t{1} << 62);
  report.set_sealed_count(int64_t{1} << 62);
  EXPECT_THAT(h.Decide([&](ClusterState& s, Moment now) { return s.ReportSeals(report, now); }),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("4611686018427387904"), HasSubstr("999999999"))));
  EXPECT_EQ(h.Get(job.name()).stages(0).done(), 0);
}

TEST(ProgressTest, ShowsRateAndEta) {
  Harness h;
  ASSERT_OK_AND_ASSIGN(const Job job, h.Create(SmallSpec()));
  const v1::Task task = h.LeaseOne("a");
  for (int i = 1; i <= 16; ++i) {
    h.Advance(absl::Seconds(1));
    ASSERT_TRUE(h.Beat(task, i));
  }
  const auto simulate = h.Get(job.name()).stages(0);
  EXPECT_EQ(simulate.done(), 16) << "what is durable counts before it is sealed";
  EXPECT_NEAR(simulate.rate(), 1, 0.1);
  EXPECT_NEAR(static_cast<double>(simulate.eta().seconds()), 112, 12);
  EXPECT_TRUE(simulate.has_start_time());
  EXPECT_FALSE(simulate.has_end_time());
}

}  // namespace
}  // namespace d2g::coordinator

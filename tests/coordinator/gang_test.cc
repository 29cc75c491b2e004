// Gangs, checkpoints, and the way from training to the end of a job.
#include "coordinator/rows/limits.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/gang_fixture.h"
#include "tests/testing/status_matchers.h"

namespace d2g::coordinator {
namespace {

using ::d2g::testing::IsOk;
using ::d2g::testing::StatusIs;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using v1::GangAssignment;
using v1::GangHeartbeatRequest;
using v1::GangHeartbeatResponse;
using v1::Job;

constexpr auto kFailedPrecondition = absl::StatusCode::kFailedPrecondition;
constexpr auto kInvalidArgument = absl::StatusCode::kInvalidArgument;

TEST_F(GangTest, LostTriplesOfAnEpochHoldUpTheNextGeneration) {
  ASSERT_THAT(Snapshot(0), IsOk());
  LoseShard1();
  Idle(absl::Seconds(5));
  EXPECT_THAT(
      h_.Get(job_).health(),
      Contains("training waits for 64 of its 128 triples to be simulated again on shard 1"));
  EXPECT_THAT(h_.BeatShard(1, h_.KnownSummaries(1), "another"), IsOk());
  ASSERT_THAT(h_.Complete(h_.LeaseOne("w"), "w"), IsOk());
  Idle(absl::Seconds(5));
  EXPECT_THAT(
      h_.Get(job_).health(),
      Contains("training waits for 48 of its 128 triples to be simulated again on shard 1"));
  EXPECT_THAT(h_.BeatShard(1, h_.KnownSummaries(1), "another"), IsOk());
  EXPECT_EQ(h_.SimulateAll(), 3);
  h_.coordinator().Tick();
  const auto next = Beat(Harness::Report("a", kIdle));
  ASSERT_EQ(next.action(), GangHeartbeatResponse::ACTION_RUN);
  EXPECT_EQ(next.assignment().generation(), 2);
  EXPECT_THAT(h_.Get(job_).health(), Not(Contains(HasSubstr("training waits"))));
}

TEST_F(GangTest, AShardThatIsDownHoldsUpOnlyTheJobsThatReadFromIt) {
  // The same dataset, but only its first block, which is on shard 0.
  v1::JobSpec spec = SmallSpec("/tmp/small");
  spec.mutable_simulate()->set_triples(32);
  spec.mutable_simulate()->set_min_triples(20);
  spec.mutable_train()->set_global_batch(2);
  spec.mutable_evaluate()->set_pictures(4);
  ASSERT_OK_AND_ASSIGN(const Job small, h_.Create(spec));
  ASSERT_EQ(small.dataset(), h_.Get(job_).dataset());
  h_.StopShard(1);
  h_.Advance(kShardTimeout / 2);
  h_.Advance(kShardTimeout / 2 + absl::Seconds(1));
  ASSERT_THAT(h_.Get(job_).health(), Contains("1 of 2 shards down: 1"));
  EXPECT_THAT(h_.Join("a", 2), IsOk());
  h_.coordinator().Tick();
  EXPECT_EQ(Beat(Harness::Report("a", kIdle)).assignment().job(), small.name());
  const char kHealth[] = "training waits for what is on shards that are down: 1";
  EXPECT_THAT(h_.Get(job_).health(), Contains(kHealth));
  EXPECT_THAT(h_.Get(small.name()).health(), Not(Contains(kHealth)));
}

TEST_F(GangTest, BeforeTheFirstEpochLostTriplesCountForTheThresholdAgain) {
  LoseShard1();
  Idle(absl::Seconds(5));
  EXPECT_THAT(h_.BeatShard(1, h_.KnownSummaries(1), "another"), IsOk());
  // Each task of 16 brings 14 that are not held out to the 56 that are left; 80 are needed.
  ASSERT_THAT(h_.Complete(h_.LeaseOne("w"), "w"), IsOk());
  h_.coordinator().Tick();
  EXPECT_EQ(Action(Harness::Report("a", kIdle)), GangHeartbeatResponse::ACTION_IDLE);
  ASSERT_THAT(h_.Complete(h_.LeaseOne("w"), "w"), IsOk());
  h_.coordinator().Tick();
  EXPECT_EQ(Action(Harness::Report("a", kIdle)), GangHeartbeatResponse::ACTION_RUN);
}

TEST_F(GangTest, ACheckpointOfAStoredFolderThatIsNotNormalIsTaken) {
  std::string& bytes = h_.rows().rows()["job/" + job_.substr(job_.find('/') + 1)];
  rows::v1::JobRow row;
  ASSERT_TRUE(row.ParseFromString(bytes));
  row.mutable_spec()->set_output_dir("/tmp/out/");
  bytes = row.SerializeAsString();
  h_.Restart();
  h_.BeatShard(0);
  h_.BeatShard(1);
  StartOne();
  ASSERT_THAT(h_.Commit(job_, 1, 50), IsOk());
  ASSERT_THAT(h_.Commit(job_, 1, 50), IsOk()) << "idempotent";
  EXPECT_THAT(h_.Commit(job_, 1, 60, "n/../../../x"),
              StatusIs(kInvalidArgument, HasSubstr("is not below /tmp/out/checkpoints/")));
}

TEST_F(GangTest, FormsFromSeveralAgentsAndSharesTheRendezvous) {
  ASSERT_THAT(h_.Join("a", 1), IsOk());
  h_.Advance(absl::Seconds(3));
  EXPECT_EQ(Action(Harness::Report("a", kIdle)), GangHeartbeatResponse::ACTION_IDLE)
      << "one rank is fewer than min_ranks";
  EXPECT_THAT(h_.Get(job_).health(),
              Contains(HasSubstr("no gang: 1 ranks are free, 2 are needed")));
  ASSERT_THAT(h_.Join("b", 1), IsOk());
  h_.coordinator().Tick();  // max_ranks are there: no settling
  const auto a = Beat(Harness::Report("a", kIdle));
  const auto b = Beat(Harness::Report("b", kIdle));
  ASSERT_EQ(a.action(), GangHeartbeatResponse::ACTION_RUN);
  ASSERT_EQ(b.action(), GangHeartbeatResponse::ACTION_RUN);
  EXPECT_EQ(a.assignment().generation(), 1);
  EXPECT_EQ(a.assignment().world_size(), 2);
  EXPECT_EQ(a.assignment().first_rank(), 0);
  EXPECT_EQ(b.assignment().first_rank(), 1);
  EXPECT_EQ(b.assignment().rank_count(), 1);
  EXPECT_EQ(b.assignment().rendezvous(), "");
  EXPECT_EQ(a.assignment().work().shards_size(), 2);
  EXPECT_FALSE(a.assignment().work().has_resume());
  Beat(Harness::Report("a", kRunning, a.assignment()));
  EXPECT_EQ(Beat(Harness::Report("b", kIdle)).assignment().rendezvous(), "127.0.0.1:9");
}

TEST_F(GangTest, WaitsForMoreRanksThanTheMinimumForTheSettleTime) {
  auto spec = SmallSpec("/tmp/other");
  spec.mutable_simulate()->set_seed(3);
  spec.mutable_train()->set_min_ranks(1);
  spec.mutable_train()->set_max_ranks(4);
  ASSERT_THAT(h_.SetDesired(job_, Job::DESIRED_STATE_CANCELLED), IsOk());
  ASSERT_OK_AND_ASSIGN(const Job job, h_.Create(spec));
  h_.SimulateAll();
  ASSERT_THAT(h_.Join("a", 1), IsOk());
  h_.Advance(absl::Seconds(1));
  ASSERT_THAT(h_.Join("b", 1), IsOk());
  h_.Advance(absl::Milliseconds(1500));
  EXPECT_EQ(h_.Get(job.name()).generation(), 0) << "b joined less than the settle time ago";
  h_.Advance(absl::Seconds(1));
  EXPECT_EQ(h_.Get(job.name()).generation(), 1);
  EXPECT_EQ(Beat(Harness::Report("a", kIdle)).assignment().world_size(), 2);
}

TEST_F(GangTest, TrainingStartsAtTheThresholdOfTrainingTriples) {
  ASSERT_THAT(h_.SetDesired(job_, Job::DESIRED_STATE_CANCELLED), IsOk());
  auto spec = SmallSpec("/tmp/other");
  spec.mutable_simulate()->set_seed(3);
  ASSERT_OK_AND_ASSIGN(const Job job, h_.Create(spec));
  ASSERT_THAT(h_.Join("a", 2), IsOk());
  // Each task of 16 brings 14 that are not held out; 80 are needed.
  for (int task = 1; task <= 8; ++task) {
    ASSERT_THAT(h_.Complete(h_.LeaseOne("w"), "w"), IsOk());
    h_.coordinator().Tick();
    EXPECT_EQ(h_.Get(job.name()).generation(), task * 14 >= 80 ? 1 : 0) << task;
  }
}

TEST_F(GangTest, ARankDeathMakesTheNextGenerationFromTheLastCheckpoint) {
  const GangAssignment first = StartOne();
  ASSERT_THAT(h_.Commit(job_, 1, 50), IsOk());
  auto broken = Harness::Report("a", kBroken, first);
  broken.set_error("rank 1 died: signal 9");
  EXPECT_EQ(Action(broken), GangHeartbeatResponse::ACTION_IDLE);
  EXPECT_THAT(h_.Get(job_).health(), Contains(HasSubstr("rank 1 died: signal 9")));
  h_.Advance(absl::Seconds(1));
  const auto next = Beat(Harness::Report("a", kIdle));
  ASSERT_EQ(next.action(), GangHeartbeatResponse::ACTION_RUN);
  EXPECT_EQ(next.assignment().generation(), 2);
  EXPECT_EQ(next.assignment().work().resume().step(), 50);
  EXPECT_EQ(next.assignment().rendezvous(), "") << "the old address must not leak";
  EXPECT_THAT(h_.Commit(job_, 1, 60), StatusIs(kFailedPrecondition, HasSubstr("generation 1")));
}

TEST_F(GangTest, ASilentAgentBreaksTheGeneration) {
  StartOne();
  ASSERT_THAT(h_.Join("b", 2), IsOk());
  for (int i = 0; i < 10; ++i) {
    h_.Advance(absl::Seconds(1));
    Beat(Harness::Report("b", kIdle));
  }
  EXPECT_THAT(h_.BeatGang(Harness::Report("a", kIdle)),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("join")));
  const auto b = Beat(Harness::Report("b", kIdle));
  ASSERT_EQ(b.action(), GangHeartbeatResponse::ACTION_RUN);
  EXPECT_EQ(b.assignment().generation(), 2);
}

TEST_F(GangTest, RanksThatLeaveBeforeTheEndAreAFailure) {
  const GangAssignment first = StartOne();
  EXPECT_EQ(Action(Harness::Report("a", kLeft, first)), GangHeartbeatResponse::ACTION_IDLE);
  EXPECT_THAT(h_.Get(job_).health(), Contains(HasSubstr("left before the last step")));
}

TEST_F(GangTest, TenBrokenGenerationsWithoutACheckpointFailTheJob) {
  GangAssignment current = StartOne();
  for (int64_t generation = 1; generation <= 12; ++generation) {
    ASSERT_EQ(h_.Get(job_).state(), Job::STATE_RUNNING) << generation;
    for (int i = 0; i < 60 && current.generation() != generation; ++i) {
      h_.Advance(absl::Seconds(1));
      current = Beat(Harness::Report("a", kIdle)).assignment();
      Beat(Harness::Report("a", kRunning, current));
    }
    ASSERT_EQ(current.generation(), generation);
    if (generation == 2) {
      // A checkpoint clears what was counted before it.
      ASSERT_THAT(h_.Commit(job_, generation, 10), IsOk());
    }
    auto broken = Harness::Report("a", kBroken, current);
    broken.set_error(absl::StrCat("loss is NaN in ", generation));
    Beat(broken);
    if (generation == 11) break;
  }
  const Job failed = h_.Get(job_);
  EXPECT_EQ(failed.state(), Job::STATE_FAILED);
  EXPECT_THAT(failed.error(), HasSubstr("10 generations broke without a new checkpoint"));
  EXPECT_THAT(failed.error(), HasSubstr("loss is NaN in 11"));
}

TEST_F(GangTest, ARestartAdoptsTheRunningGeneration) {
  ASSERT_THAT(h_.Join("a", 1), IsOk());
  ASSERT_THAT(h_.Join("b", 1), IsOk());
  h_.coordinator().Tick();
  const auto a = Beat(Harness::Report("a", kIdle)).assignment();
  const auto b = Beat(Harness::Report("b", kIdle)).assignment();
  Beat(Harness::Report("a", kRunning, a, 10));
  Beat(Harness::Report("b", kRunning, b, 10));
  h_.Restart();
  for (int i = 0; i < 20; ++i) {
    h_.Advance(absl::Seconds(1));
    const auto kept = Beat(Harness::Report("a", kRunning, a, 20 + i));
    ASSERT_EQ(kept.action(), GangHeartbeatResponse::ACTION_RUN);
    EXPECT_EQ(kept.assignment().generation(), 1);
    EXPECT_EQ(kept.assignment().rank_count(), 1);
    ASSERT_EQ(Action(Harness::Report("b", kRunning, b, 20 + i)), GangHeartbeatResponse::ACTION_RUN);
  }
  EXPECT_EQ(h_.Get(job_).generation(), 1) << "a restart must not stop training";
  EXPECT_EQ(h_.Get(job_).stages(1).done(), 39);
  EXPECT_THAT(h_.Commit(job_, 1, 50), IsOk());
}

TEST_F(GangTest, AMemberThatDoesNotComeBackAfterARestartBreaksTheGeneration) {
  const GangAssignment first = StartOne();
  h_.Restart();
  h_.Advance(absl::Seconds(9));
  EXPECT_THAT(h_.BeatGang(Harness::Report("a", kRunning, first)),
              StatusIs(absl::StatusCode::kNotFound));
  EXPECT_EQ(h_.Get(job_).state(), Job::STATE_RUNNING);
}

TEST_F(GangTest, AnIdleAgentJoinsAgainAfterARestart) {
  ASSERT_THAT(h_.SetDesired(job_, Job::DESIRED_STATE_PAUSED), IsOk());
  ASSERT_THAT(h_.Join("a", 2), IsOk());
  h_.Restart();
  EXPECT_THAT(h_.BeatGang(Harness::Report("a", kIdle)), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(GangTest, PauseCheckpointsFirstAndResumesFromThere) {
  const GangAssignment first = StartOne();
  ASSERT_THAT(h_.SetDesired(job_, Job::DESIRED_STATE_PAUSED), IsOk());
  EXPECT_EQ(h_.Get(job_).state(), Job::STATE_RUNNING) << "until the ranks have left";
  EXPECT_EQ(Action(Harness::Report("a", kRunning, first, 30)),
            GangHeartbeatResponse::ACTION_CHECKPOINT_AND_LEAVE);
  h_.Restart();
  EXPECT_EQ(Action(Harness::Report("a", kRunning, first, 31)),
            GangHeartbeatResponse::ACTION_CHECKPOINT_AND_LEAVE)
      << "also after a restart";
  ASSERT_THAT(h_.Commit(job_, 1, 31), IsOk());
  EXPECT_EQ(Action(Harness::Report("a", kLeft, first)), GangHeartbeatResponse::ACTION_IDLE);
  EXPECT_EQ(h_.Get(job_).state(), Job::STATE_PAUSED);
  h_.Advance(absl::Seconds(5));
  EXPECT_EQ(Action(Harness::Report("a", kIdle)), GangHeartbeatResponse::ACTION_IDLE);
  ASSERT_THAT(h_.SetDesired(job_, Job::DESIRED_STATE_RUNNING), IsOk());
  h_.coordinator().Tick();
  const auto next = Beat(Harness::Report("a", kIdle)).assignment();
  EXPECT_EQ(next.generation(), 2);
  EXPECT_EQ(next.work().resume().step(), 31);
  EXPECT_THAT(h_.Get(job_).health(), ElementsAre("ranks are starting")) << "a pause is no failure";
}

TEST_F(GangTest, CancelTellsTheGangToStop) {
  const GangAssignment first = StartOne();
  ASSERT_THAT(h_.SetDesired(job_, Job::DESIRED_STATE_CANCELLED), IsOk());
  EXPECT_EQ(Action(Harness::Report("a", kRunning, first)), GangHeartbeatResponse::ACTION_IDLE);
  EXPECT_THAT(h_.Commit(job_, 1, 50), StatusIs(kFailedPrecondition, HasSubstr("ended")));
}

TEST_F(GangTest, ADrainingAgentMakesRoomWithoutCountingAsAFailure) {
  const GangAssignment first = StartOne();
  ASSERT_THAT(h_.Join("b", 2), IsOk());
  auto draining = Harness::Report("a", kRunning, first, 40);
  draining.set_state(kDraining);
  EXPECT_EQ(Action(draining), GangHeartbeatResponse::ACTION_CHECKPOINT_AND_LEAVE);
  ASSERT_THAT(h_.Commit(job_, 1, 41), IsOk());
  Beat(Harness::Report("a", kLeft, first));
  h_.coordinator().Tick();
  EXPECT_EQ(Action(Harness::Report("a", kDraining)), GangHeartbeatResponse::ACTION_IDLE)
      << "a draining agent gets no more ranks";
  const auto next = Beat(Harness::Report("b", kIdle));
  ASSERT_EQ(next.action(), GangHeartbeatResponse::ACTION_RUN);
  EXPECT_EQ(next.assignment().work().resume().step(), 41);
  EXPECT_EQ(h_.Inspect([](ClusterState& s) { return s.gangs().Find("job1")->failures(); }), 0);
}

TEST_F(GangTest, CheckpointsAreCompareAndSet) {
  EXPECT_THAT(h_.Commit(job_, 0, 10), StatusIs(kFailedPrecondition));
  EXPECT_THAT(h_.Commit(job_, 1, 10), StatusIs(kFailedPrecondition, HasSubstr("generation 1")));
  StartOne();
  ASSERT_THAT(h_.Commit(job_, 1, 10), IsOk());
  EXPECT_THAT(h_.Commit(job_, 1, 10), IsOk()) << "a repeat";
  EXPECT_THAT(h_.Commit(job_, 1, 10, "other"), StatusIs(kFailedPrecondition));
  EXPECT_THAT(h_.Commit(job_, 1, 9), StatusIs(kFailedPrecondition, HasSubstr("step 9")));
  EXPECT_THAT(h_.Commit(job_, 1, 0), StatusIs(kInvalidArgument, HasSubstr("from 1 to 100")));
  EXPECT_THAT(h_.Commit(job_, 1, 101), StatusIs(kInvalidArgument));
  EXPECT_THAT(h_.Commit(job_, 1, 20, "/../../x"), StatusIs(kInvalidArgument, HasSubstr("path")));
  EXPECT_THAT(h_.Commit(job_, 1, 20, "../../x"), StatusIs(kInvalidArgument, HasSubstr("path")));
  EXPECT_THAT(h_.Commit(job_, 2, 20), StatusIs(kFailedPrecondition));
  h_.Restart();
  EXPECT_THAT(h_.Commit(job_, 1, 10), IsOk()) << "a repeat after a restart";
  EXPECT_THAT(h_.Commit(job_, 1, 9), StatusIs(kFailedPrecondition));
}

TEST_F(GangTest, OldCheckpointsMayBeDeletedByTheCoordinatorsWord) {
  StartOne();
  const auto path = [](int step) { return absl::StrCat("/tmp/out/checkpoints/step-", step, "-n"); };
  ASSERT_OK_AND_ASSIGN(const auto c10, h_.Commit(job_, 1, 10));
  EXPECT_THAT(c10.delete_paths(), IsEmpty());
  ASSERT_OK_AND_ASSIGN(const auto c20, h_.Commit(job_, 1, 20));
  EXPECT_THAT(c20.delete_paths(), IsEmpty());
  ASSERT_OK_AND_ASSIGN(const auto c30, h_.Commit(job_, 1, 30));
  EXPECT_THAT(c30.delete_paths(), ElementsAre(path(10)));
  ASSERT_OK_AND_ASSIGN(const auto again, h_.Commit(job_, 1, 30));
  EXPECT_THAT(again.delete_paths(), ElementsAre(path(10))) << "in case the answer got lost";
  h_.Restart();
  ASSERT_OK_AND_ASSIGN(const auto c40, h_.Commit(job_, 1, 40));
  EXPECT_THAT(c40.delete_paths(), ElementsAre(path(20), path(10)))
      << "named twice, in case an answer got lost";
  v1::ListCheckpointsRequest request;
  request.set_parent(job_);
  ASSERT_OK_AND_ASSIGN(const auto listed, h_.Decide([&](ClusterState& s, Moment) {
    return s.ListCheckpoints(request);
  }));
  ASSERT_EQ(listed.checkpoints_size(), 2);
  EXPECT_EQ(listed.checkpoints(0).step(), 40);
  EXPECT_EQ(listed.checkpoints(0).name(), absl::StrCat(job_, "/checkpoints/40"));
  EXPECT_EQ(listed.checkpoints(1).step(), 30);
}

TEST_F(GangTest, ExportAndEvaluationFollowTheLastCheckpoint) {
  using v1::TASK_KIND_EVALUATE;
  using v1::TASK_KIND_EXPORT;
  const GangAssignment first = StartOne();
  EXPECT_EQ(h_.LeaseOne("e", {TASK_KIND_EVALUATE, TASK_KIND_EXPORT}).name(), "");
  ASSERT_THAT(h_.Commit(job_, 1, 100), IsOk());
  EXPECT_EQ(Action(Harness::Report("a", kRunning, first, 100)), GangHeartbeatResponse::ACTION_RUN)
      << "the ranks may finish by themselves";
  EXPECT_EQ(Action(Harness::Report("a", kLeft, first)), GangHeartbeatResponse::ACTION_IDLE);
  h_.Advance(absl::Seconds(5));
  EXPECT_EQ(Action(Harness::Report("a", kIdle)), GangHeartbeatResponse::ACTION_IDLE)
      << "training is over";
  EXPECT_EQ(h_.LeaseOne("s").name(), "") << "a worker gets only the kinds it offers";
  const v1::Task exporting = h_.LeaseOne("e", {TASK_KIND_EVALUATE, TASK_KIND_EXPORT});
  ASSERT_TRUE(exporting.has_export_());
  EXPECT_EQ(exporting.export_().export_path(), "/tmp/out/export");
  EXPECT_EQ(exporting.export_().checkpoint_step(), 100);
  ASSERT_TRUE(h_.Beat(exporting, 1));
  h_.Restart();
  h_.BeatShard(0);
  h_.BeatShard(1);
  const v1::Task evaluating = h_.LeaseOne("e", {TASK_KIND_EVALUATE, TASK_KIND_EXPORT});
  ASSERT_TRUE(evaluating.has_evaluate()) << "the export is still leased";
  EXPECT_EQ(evaluating.evaluate().sealed(0).end(), 128);
  EXPECT_EQ(evaluating.evaluate().shards_size(), 2);
  ASSERT_THAT(h_.Complete(exporting, "e"), IsOk());
  EXPECT_EQ(h_.Get(job_).state(), Job::STATE_RUNNING);
  ASSERT_THAT(h_.Complete(evaluating, "e"), IsOk());
  const Job done = h_.Get(job_);
  EXPECT_EQ(done.state(), Job::STATE_SUCCEEDED);
  EXPECT_EQ(done.export_().path(), "/tmp/out/export");
  EXPECT_EQ(done.evaluation().checkpoint_step(), 100);
  for (const auto& stage : done.stages()) {
    EXPECT_EQ(stage.done(), stage.total()) << stage.ShortDebugString();
    EXPECT_TRUE(stage.has_start_time() && stage.has_end_time()) << stage.ShortDebugString();
  }
  h_.Restart();
  EXPECT_EQ(h_.Get(job_).SerializeAsString().size(), done.SerializeAsString().size());
}

TEST_F(GangTest, WithoutPicturesThereIsNoEvaluation) {
  ASSERT_THAT(h_.SetDesired(job_, Job::DESIRED_STATE_CANCELLED), IsOk());
  auto spec = SmallSpec("/tmp/other");
  spec.clear_evaluate();
  ASSERT_OK_AND_ASSIGN(const Job job, h_.Create(spec));
  EXPECT_EQ(job.stages_size(), 3);
  job_ = job.name();
  StartOne();
  ASSERT_THAT(h_.Commit(job_, 1, 100), IsOk());
  const v1::Task task = h_.LeaseOne("e", {v1::TASK_KIND_EVALUATE, v1::TASK_KIND_EXPORT});
  ASSERT_TRUE(task.has_export_());
  ASSERT_THAT(h_.Complete(task, "e"), IsOk());
  EXPECT_EQ(h_.Get(job_).state(), Job::STATE_SUCCEEDED);
}

TEST_F(GangTest, AnExportThatKeepsFailingFailsTheJob) {
  StartOne();
  ASSERT_THAT(h_.Commit(job_, 1, 100), IsOk());
  for (int i = 0; i < 5; ++i) {
    const v1::Task task = h_.LeaseOne("e", {v1::TASK_KIND_EXPORT});
    ASSERT_TRUE(task.has_export_()) << i;
    h_.Fail(task, "e", v1::FailTaskRequest::REASON_ERROR, "disk is full");
    h_.Advance(kTaskFailureSpan / 4);
  }
  EXPECT_EQ(h_.Get(job_).state(), Job::STATE_FAILED);
  EXPECT_THAT(h_.Get(job_).error(), HasSubstr("export failed 5 times"));
}

TEST_F(GangTest, TrainingMetricsComeFromTheLowestRank) {
  const GangAssignment first = StartOne();
  Beat(Harness::Report("a", kRunning, first, 12));
  const Job job = h_.Get(job_);
  EXPECT_EQ(job.stages(1).done(), 12);
  ASSERT_TRUE(job.training_metrics().contains("loss"));
  EXPECT_EQ(job.training_metrics().at("loss"), 0.5);
}

TEST_F(GangTest, JoinRefusesBadSlots) {
  EXPECT_THAT(h_.Join("a", 0), StatusIs(kInvalidArgument, HasSubstr("0 is not from 1 to 64")));
  EXPECT_THAT(h_.Join("", 1), StatusIs(kInvalidArgument, HasSubstr("agent")));
}

}  // namespace
}  // namespace d2g::coordinator

// Starts on damaged rows: one that cannot be used is set aside, and nothing else is lost.
#include "coordinator/state/row_audit.h"

#include <random>
#include <set>

#include "absl/strings/escaping.h"
#include "coordinator/rows/row_keys.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/harness.h"
#include "tests/testing/status_matchers.h"

namespace d2g::coordinator {
namespace {

using ::d2g::testing::IsOk;
using ::d2g::testing::StatusIs;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Key;
using ::testing::SizeIs;
using v1::GangAssignment;
using v1::GangHeartbeatRequest;
using v1::GangHeartbeatResponse;
using v1::Job;

constexpr auto kNotFound = absl::StatusCode::kNotFound;
constexpr auto kIdle = GangHeartbeatRequest::AGENT_STATE_IDLE;
constexpr auto kRunning = GangHeartbeatRequest::AGENT_STATE_RUNNING;
constexpr char kGarbage[] = "\xff\xfe\xfd not a row";

v1::JobSpec SpecOf(int number) {
  v1::JobSpec spec = SmallSpec(absl::StrCat("/tmp/out", number));
  spec.mutable_simulate()->set_seed(static_cast<uint64_t>(number));
  return spec;
}

// Rows of every kind: jobs/job1 trains in generation 1 with checkpoints 25 and 50, jobs/job2 has
// sealed, leased and failed ranges, jobs/job3 is cancelled and its dataset deleted.
class DamagedRowsTest : public ::testing::Test {
 protected:
  void SetUp() override { Fill(); }

  void Fill() {
    h_ = std::make_unique<Harness>();
    ASSERT_THAT(h_->Create(SpecOf(1), "request-1"), IsOk());
    h_->SimulateAll();
    ASSERT_THAT(h_->Join("a", 2), IsOk());
    h_->coordinator().Tick();
    generation_ = h_->BeatGang(Harness::Report("a", kIdle))->assignment();
    ASSERT_EQ(generation_.generation(), 1);
    ASSERT_THAT(h_->BeatGang(Harness::Report("a", kRunning, generation_, 60)), IsOk());
    ASSERT_THAT(Snapshot(), IsOk());
    ASSERT_THAT(h_->Commit("jobs/job1", 1, 25), IsOk());
    ASSERT_THAT(h_->Commit("jobs/job1", 1, 50), IsOk());
    ASSERT_THAT(h_->Create(SpecOf(2)), IsOk());
    ASSERT_TRUE(h_->Complete(h_->LeaseOne("w"), "w").ok());
    h_->Fail(h_->LeaseOne("w"), "w", v1::FailTaskRequest::REASON_ERROR, "caf\xc3\xa9");
    held_ = h_->LeaseOne("v");
    ASSERT_THAT(h_->Create(SpecOf(3)), IsOk());
    const std::string deleted = h_->Get("jobs/job3").dataset();
    ASSERT_THAT(h_->SetDesired("jobs/job3", Job::DESIRED_STATE_CANCELLED), IsOk());
    ASSERT_THAT(h_->Decide([&](ClusterState& s, Moment) { return s.DeleteDataset(deleted); }),
                IsOk());
  }
  absl::Status Snapshot() {
    v1::GetOrCreateSnapshotRequest request;
    request.set_job("jobs/job1");
    return h_->Decide([&](ClusterState& s, Moment) { return s.GetOrCreateSnapshot(request); })
        .status();
  }
  std::string DatasetOf(const std::string& job) {
    return h_->Get(job).dataset().substr(sizeof("datasets/") - 1);
  }
  int64_t Sealed(const std::string& dataset) {
    return h_->Inspect(
        [&](ClusterState& s) { return s.datasets().Find(dataset)->sealed().size(); });
  }
  // Overwrites one row and starts on what is left.
  void Damage(const std::string& key, const std::string& value = kGarbage) {
    ASSERT_THAT(h_->rows().rows(), Contains(Key(key)));
    h_->rows().rows()[key] = value;
    h_->Restart();
    ASSERT_THAT(h_->rows().aside(), Contains(::testing::Pair(key, value)));
    // What was set aside stays so.
    const auto rows = h_->rows().rows();
    h_->Restart();
    EXPECT_EQ(h_->rows().rows(), rows);
  }
  std::vector<std::string> AsideKeys() {
    std::vector<std::string> keys;
    for (const auto& [key, value] : h_->rows().aside()) keys.push_back(key);
    return keys;
  }
  // Job 2 is as it was, and simulates to its end.
  void ExpectJob2GoesOn() {
    EXPECT_EQ(h_->Get("jobs/job2").state(), Job::STATE_RUNNING);
    EXPECT_EQ(Sealed(DatasetOf("jobs/job2")), 16);
    h_->Advance(absl::Seconds(12));  // the lease that nobody renews lapses
    h_->SimulateAll("z");
    EXPECT_EQ(Sealed(DatasetOf("jobs/job2")), 128);
  }
  // Heartbeats of an agent that does what it is told until it runs a generation of job 1.
  GangAssignment NextGeneration() {
    GangAssignment assignment;
    for (int i = 0; i < 20 && assignment.generation() == 0; ++i) {
      h_->Advance(absl::Seconds(1));
      const auto told = h_->BeatGang(Harness::Report("a", kIdle));
      if (absl::IsNotFound(told.status())) {
        EXPECT_THAT(h_->Join("a", 2), IsOk());
      } else if (told->action() == GangHeartbeatResponse::ACTION_RUN) {
        assignment = told->assignment();
      }
    }
    return assignment;
  }

  std::unique_ptr<Harness> h_;
  GangAssignment generation_;
  v1::Task held_;
};

TEST_F(DamagedRowsTest, GoodRowsAreAllTaken) {
  std::set<std::string> kinds;
  for (const auto& [key, value] : h_->rows().rows()) kinds.insert(key.substr(0, key.find('/')));
  EXPECT_THAT(kinds, SizeIs(11)) << "a kind that these tests leave out";
  h_->Restart();
  EXPECT_THAT(AsideKeys(), IsEmpty());
}

TEST_F(DamagedRowsTest, AJobGoesWithAllThatIsItsOwn) {
  Damage("job/job1");
  EXPECT_THAT(AsideKeys(), ElementsAre("checkpoint/job1/00000000000000000025",
                                       "checkpoint/job1/00000000000000000050", "gang/job1",
                                       "job/job1", "snapshot/job1/00000000000000000000"));
  EXPECT_THAT(h_->Decide([](ClusterState& s, Moment now) { return s.GetJob("jobs/job1", now); }),
              StatusIs(kNotFound));
  EXPECT_THAT(h_->BeatGang(Harness::Report("a", kRunning, generation_, 61)), StatusIs(kNotFound))
      << "its agent joins again, and is told that nothing should run";
  ExpectJob2GoesOn();
  // The triples are still there for whoever submits it again, also with the same request id.
  const auto again = h_->Create(SpecOf(1), "request-1");
  ASSERT_THAT(again, IsOk());
  EXPECT_EQ(again->stages(0).reused(), 128);
}

TEST_F(DamagedRowsTest, ADatasetIsMadeAgainFromItsJobs) {
  const std::string dataset = DatasetOf("jobs/job1");
  const std::string before = h_->rows().rows()["dataset/" + dataset];
  Damage("dataset/" + dataset);
  EXPECT_THAT(AsideKeys(), SizeIs(1));
  EXPECT_EQ(Sealed(dataset), 128);
  rows::v1::DatasetRow old_row, new_row;
  ASSERT_TRUE(old_row.ParseFromString(before));
  ASSERT_TRUE(new_row.ParseFromString(h_->rows().rows()["dataset/" + dataset]));
  EXPECT_EQ(new_row.recipe().SerializeAsString(), old_row.recipe().SerializeAsString());
  EXPECT_EQ(h_->Get("jobs/job1").state(), Job::STATE_RUNNING);
  ExpectJob2GoesOn();
}

TEST_F(DamagedRowsTest, ADatasetThatNobodyKnowsAnyMoreEndsItsJobs) {
  // As a build wrote it that did not keep the recipe with the job.
  rows::v1::JobRow row;
  ASSERT_TRUE(row.ParseFromString(h_->rows().rows()["job/job1"]));
  row.clear_recipe();
  h_->rows().rows()["job/job1"] = row.SerializeAsString();
  const std::string dataset = DatasetOf("jobs/job1");
  Damage("dataset/" + dataset);
  EXPECT_THAT(AsideKeys(), SizeIs(3)) << "with the seals of both shards";
  const Job failed = h_->Get("jobs/job1");
  EXPECT_EQ(failed.state(), Job::STATE_FAILED);
  EXPECT_THAT(failed.error(), HasSubstr(absl::StrCat("row of datasets/", dataset)));
  EXPECT_EQ(failed.checkpoint_step(), 50) << "its checkpoints are still listed";
  ExpectJob2GoesOn();
  // Submitted again, the dataset is the same one, and the shards tell what they hold.
  const auto again = h_->Create(SpecOf(1));
  ASSERT_THAT(again, IsOk());
  EXPECT_EQ(again->dataset(), absl::StrCat("datasets/", dataset));
  v1::DatasetSummary summary;
  summary.set_dataset(again->dataset());
  summary.set_sealed_count(64);
  const auto beat = h_->BeatShard(0, {summary});
  ASSERT_THAT(beat, IsOk());
  EXPECT_THAT(beat->report_seals(), ElementsAre(again->dataset()));
}

TEST_F(DamagedRowsTest, SealsAreReportedAgain) {
  const std::string dataset = DatasetOf("jobs/job1");
  const auto held = h_->KnownSummaries(0);
  Damage(absl::StrCat("seals/", ChildId(dataset, 0)));
  EXPECT_THAT(AsideKeys(), SizeIs(1));
  EXPECT_EQ(Sealed(dataset), 64);
  const auto beat = h_->BeatShard(0, held);
  ASSERT_THAT(beat, IsOk());
  EXPECT_THAT(beat->report_seals(), ElementsAre(absl::StrCat("datasets/", dataset)));
  EXPECT_EQ(h_->Get("jobs/job1").state(), Job::STATE_RUNNING);
}

TEST_F(DamagedRowsTest, ALeaseIsGivenAnew) {
  Damage(absl::StrCat("lease/", NumberId(held_.lease_id())));
  EXPECT_FALSE(h_->Beat(held_, 1)) << "its holder is told to stop";
  h_->BeatShard(0);
  h_->BeatShard(1);
  std::set<int64_t> begins;
  for (int i = 0; i < 8; ++i)
    begins.insert(h_->LeaseOne("x" + std::to_string(i)).simulate().range().begin());
  EXPECT_THAT(begins, Contains(held_.simulate().range().begin()));
  ExpectJob2GoesOn();
}

TEST_F(DamagedRowsTest, AFailureIsForgotten) {
  Damage("failure/job2/00000000000000000001");
  EXPECT_THAT(AsideKeys(), SizeIs(1));
  ExpectJob2GoesOn();
}

TEST_F(DamagedRowsTest, TrainingResumesFromTheCheckpointBeforeALostOne) {
  Damage("checkpoint/job1/00000000000000000050");
  EXPECT_EQ(h_->Get("jobs/job1").checkpoint_step(), 25);
  // Ranks that run on commit what comes next.
  ASSERT_THAT(h_->BeatGang(Harness::Report("a", kRunning, generation_, 70)), IsOk());
  ASSERT_THAT(h_->Commit("jobs/job1", 1, 75), IsOk());
  EXPECT_EQ(h_->Get("jobs/job1").checkpoint_step(), 75);
  ExpectJob2GoesOn();
}

TEST_F(DamagedRowsTest, RanksThatHaveNotLoadedALostCheckpointBeginFromTheOneBefore) {
  ASSERT_THAT(
      h_->BeatGang(Harness::Report("a", GangHeartbeatRequest::AGENT_STATE_BROKEN, generation_)),
      IsOk());
  const GangAssignment second = NextGeneration();
  ASSERT_EQ(second.work().resume().step(), 50);
  Damage("checkpoint/job1/00000000000000000050");
  const GangAssignment third = NextGeneration();
  EXPECT_EQ(third.generation(), second.generation() + 1);
  EXPECT_EQ(third.work().resume().step(), 25);
}

TEST_F(DamagedRowsTest, ARetiredCheckpointIsNotResumedFrom) {
  const auto set_retired = [&](const std::string& key) {
    rows::v1::CheckpointRow row;
    ASSERT_TRUE(row.ParseFromString(h_->rows().rows()[key]));
    row.set_retired(true);
    h_->rows().rows()[key] = row.SerializeAsString();
  };
  set_retired("checkpoint/job1/00000000000000000025");
  Damage("checkpoint/job1/00000000000000000050");
  EXPECT_EQ(h_->Get("jobs/job1").checkpoint_step(), 0);
  // Its step is committed again: that one counts.
  ASSERT_THAT(h_->BeatGang(Harness::Report("a", kRunning, generation_, 60)), IsOk());
  ASSERT_THAT(h_->Commit("jobs/job1", 1, 25, "again"), IsOk());
  EXPECT_EQ(h_->Get("jobs/job1").checkpoint_step(), 25);
}

TEST_F(DamagedRowsTest, RanksOfOneGenerationNeverReadTwoSnapshots) {
  Damage("snapshot/job1/00000000000000000000");
  ASSERT_THAT(h_->Join("a", 2), IsOk());
  const auto told = h_->BeatGang(Harness::Report("a", kRunning, generation_, 61));
  ASSERT_THAT(told, IsOk());
  EXPECT_EQ(told->action(), GangHeartbeatResponse::ACTION_IDLE);
  const GangAssignment next = NextGeneration();
  EXPECT_EQ(next.generation(), 2);
  EXPECT_EQ(next.work().resume().step(), 50);
}

TEST_F(DamagedRowsTest, ALostGangNeverRepeatsAGeneration) {
  ASSERT_THAT(
      h_->BeatGang(Harness::Report("a", GangHeartbeatRequest::AGENT_STATE_BROKEN, generation_)),
      IsOk());
  const GangAssignment second = NextGeneration();
  Damage("gang/job1");
  EXPECT_FALSE(h_->Commit("jobs/job1", second.generation(), 75).ok())
      << "ranks that nobody told yet must not commit";
  const GangAssignment next = NextGeneration();
  EXPECT_GT(next.generation(), second.generation() + 1000);
  EXPECT_EQ(next.work().resume().step(), 50);
  ExpectJob2GoesOn();
}

TEST_F(DamagedRowsTest, AShardsAddressIsHeardAgain) {
  Damage(absl::StrCat("shard/", NumberId(0)));
  h_->BeatShard(0);
  EXPECT_EQ(Sealed(DatasetOf("jobs/job1")), 128);
  ExpectJob2GoesOn();
}

TEST_F(DamagedRowsTest, ADeletedDatasetIsLeftAloneRatherThanDroppedOnADamagedWord) {
  std::string key;
  for (const auto& [row, value] : h_->rows().rows()) {
    if (absl::StartsWith(row, kDroppedPrefix)) key = row;
  }
  Damage(key);
  v1::DatasetSummary summary;
  summary.set_dataset(DatasetName(key.substr(sizeof(kDroppedPrefix) - 1)));
  const auto beat = h_->BeatShard(0, {summary});
  ASSERT_THAT(beat, IsOk());
  EXPECT_THAT(beat->drop_datasets(), IsEmpty());
}

TEST_F(DamagedRowsTest, APromptListThatJobsNeedIsMissed) {
  Damage(absl::StrCat(kPromptListPrefix, kPrompts));
  EXPECT_THAT(h_->Inspect([](ClusterState& s) { return s.MissingPromptLists(); }),
              ElementsAre(kPrompts));
  EXPECT_EQ(h_->Get("jobs/job1").state(), Job::STATE_RUNNING);
}

TEST_F(DamagedRowsTest, KeysOfNoKindAreSetAsideToo) {
  const std::string checkpoint = h_->rows().rows()["checkpoint/job1/00000000000000000050"];
  const std::string job = h_->rows().rows()["job/job2"];
  const std::map<std::string, std::string> strange = {
      {"S", "a store's"},
      {"", ""},
      {"newkind/1", "?"},
      {"job/job9", job},  // another one's
      {"job/Upper Case", job},
      {"checkpoint/job1", checkpoint},
      {"checkpoint/job1/75", checkpoint},
      {"checkpoint/job1/00000000000000000075", checkpoint},
      {"lease/x", "?"},
      {std::string("gang/\0\n", 7), "?"}};
  const auto before = h_->rows().rows();
  for (const auto& [key, value] : strange) h_->rows().rows()[key] = value;
  h_->Restart();
  EXPECT_EQ(h_->rows().aside(), strange);
  EXPECT_EQ(h_->rows().rows(), before);
  ExpectJob2GoesOn();
}

TEST_F(DamagedRowsTest, JobsWithOneSequenceAreBothKept) {
  rows::v1::JobRow row;
  ASSERT_TRUE(row.ParseFromString(h_->rows().rows()["job/job2"]));
  row.set_sequence(1);
  h_->rows().rows()["job/job2"] = row.SerializeAsString();
  h_->Restart();
  EXPECT_THAT(AsideKeys(), IsEmpty());
  EXPECT_EQ(h_->Get("jobs/job1").state(), Job::STATE_RUNNING);
  ExpectJob2GoesOn();
}

TEST_F(DamagedRowsTest, ALongErrorInAnyScriptMakesNoneOfThem) {
  GangAssignment assignment = generation_;
  for (size_t shift = 0; shift < 3; ++shift) {
    auto broken = Harness::Report("a", GangHeartbeatRequest::AGENT_STATE_BROKEN, assignment);
    broken.set_error(std::string(shift, '.'));
    while (broken.error().size() < 3000) broken.mutable_error()->append("\xe2\x82\xac");
    ASSERT_THAT(h_->BeatGang(broken), IsOk());
    h_->Restart();
    EXPECT_THAT(AsideKeys(), IsEmpty());
    EXPECT_THAT(h_->Get("jobs/job1").health(), Contains(HasSubstr("\xe2\x82\xac... (shortened)")));
    h_->BeatShard(0);
    h_->BeatShard(1);
    assignment = NextGeneration();
  }
}

// Whatever becomes of one row: the start goes on, and so do the jobs that it does not concern.
TEST_F(DamagedRowsTest, AnyRowMayBeDamagedInAnyWay) {
  std::mt19937 random(1);
  const auto good = h_->rows().rows();
  for (const auto& [key, value] : good) {
    std::vector<std::string> damages = {"", kGarbage, value.substr(0, value.size() / 2)};
    // Another uuid is another store, which its shard is refused for at first.
    const bool flips = !value.empty() && !absl::StartsWith(key, kShardPrefix);
    for (int i = 0; flips && i < 30; ++i) {
      std::string flipped = value;
      flipped[random() % value.size()] ^= static_cast<char>(1 << random() % 8);
      damages.push_back(flipped);
    }
    for (const std::string& damage : damages) {
      SCOPED_TRACE(absl::StrCat(absl::CHexEscape(key), ": ", absl::CHexEscape(damage)));
      h_->rows().rows() = good;
      h_->rows().rows()[key] = damage;
      h_->Restart();
      h_->coordinator().Tick();
      h_->Decide([](ClusterState& s, Moment now) {
        EXPECT_THAT(s.ListJobs({}, now), IsOk());
        EXPECT_THAT(s.ListDatasets({}, now), IsOk());
        s.Figures(now);
        return true;
      });
      EXPECT_THAT(h_->Lease("any", {v1::TASK_KIND_SIMULATE, v1::TASK_KIND_EXPORT}), IsOk());
      (void)h_->BeatGang(Harness::Report("a", kRunning, generation_, 61));
      h_->Advance(absl::Seconds(12));
      if (key != "job/job2") {
        EXPECT_THAT(
            h_->Decide([](ClusterState& s, Moment now) { return s.GetJob("jobs/job2", now); }),
            IsOk());
      }
    }
  }
}

}  // namespace
}  // namespace d2g::coordinator

// A cluster at random work, restarted from its rows at random points: the state loaded must be the
// state left, nothing that was acknowledged may be lost, and the work must come to its end.
#include <random>
#include <set>

#include "coordinator/decider/committer.h"
#include "coordinator/rows/row_store.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/spec/normal_spec.h"
#include "tests/coordinator/harness.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace d2g::coordinator {
namespace {

using ::d2g::testing::IsOk;

// Rows in a map.
class Memory {
 public:
  RowSink* sink() { return &rows_; }
  RowChanges Reopen() { return rows_.Scan(); }

 private:
  MapRows rows_;
};

// Rows in a real RocksDB behind the real committer, closed and opened at each restart.
class Disk {
 public:
  Disk() { Open(); }
  RowSink* sink() { return committer_.get(); }
  RowChanges Reopen() {
    committer_.reset();
    store_.reset();
    Open();
    RowChanges rows;
    EXPECT_THAT(store_->Scan([&](absl::string_view key, const std::string& value) {
      rows.push_back({std::string(key), value});
      return absl::OkStatus();
    }),
                IsOk());
    return rows;
  }

 private:
  void Open() {
    auto store = RowStore::Open(dir_.path(), 2);
    ASSERT_THAT(store, IsOk());
    store_ = *std::move(store);
    committer_ = std::make_unique<Committer>(Committer::Hooks{
        .write = [this](const std::vector<RowChanges>& groups) { return store_->Commit(groups); }});
  }

  d2g::testing::TempDir dir_;
  std::unique_ptr<RowStore> store_;
  std::unique_ptr<Committer> committer_;
};

template <typename Rows>
class RestartTest : public ::testing::Test {
 protected:
  struct Held {
    std::string worker;
    v1::Task task;
    int64_t progress = 0;
  };

  void Load(const RowChanges& rows) {
    ClusterOptions options;
    options.shard_count = 2;
    options.lease_duration = absl::Seconds(10);
    options.incarnation = ++incarnation_;
    options.new_job_id = [this] { return absl::StrCat("job", ++jobs_made_); };
    coordinator_ = Coordinator::Create(options, rows, rows_.sink(), &clock_);
  }
  template <typename Decision>
  auto Decide(Decision&& decision) {
    return coordinator_->Decide(std::forward<Decision>(decision)).result;
  }
  void BeatShards() {
    for (int32_t shard = 0; shard < 2; ++shard) {
      v1::ShardHeartbeatRequest request;
      request.mutable_shard()->set_shard(shard);
      request.mutable_shard()->set_address(absl::StrCat("127.0.0.1:", 7000 + shard));
      request.mutable_shard()->set_store_uuid(absl::StrCat("uuid-", shard));
      const auto answer = Decide([&](ClusterState& s, Moment now) {
        for (const auto& [id, row] : s.datasets().all()) {
          auto& summary = *request.add_datasets();
          summary.set_dataset(DatasetName(id));
          summary.set_sealed_count(s.datasets().Find(id)->ShardSealedCount(shard));
          summary.set_digest(s.datasets().Find(id)->ShardRow(shard).digest());
        }
        return s.ShardHeartbeat(request, now);
      });
      ASSERT_THAT(answer, IsOk());
      EXPECT_EQ(answer->report_seals_size(), 0);
    }
  }
  // What a restart must keep, in a form that can be compared.
  struct Picture {
    std::map<std::string, std::string> rows;
    std::map<std::string, std::pair<dataset::IndexSet::Ranges, dataset::IndexSet::Ranges>> datasets;
    std::set<int64_t> leases;
    bool operator==(const Picture&) const = default;
  };
  Picture Take() {
    return Decide([](ClusterState& s, Moment) {
      Picture picture;
      for (const auto& row : s.AllRows()) picture.rows[row.key] = *row.value;
      for (const auto& [id, row] : s.datasets().all()) {
        picture.datasets[id] = {s.datasets().Find(id)->sealed().ranges(),
                                s.datasets().Find(id)->leased().ranges()};
      }
      for (const auto& [id, progress] : s.leases().live()) picture.leases.insert(id);
      return picture;
    });
  }
  void Restart() {
    const Picture before = Take();
    coordinator_.reset();
    Load(rows_.Reopen());
    const Picture after = Take();
    ASSERT_EQ(after.rows.size(), before.rows.size());
    for (const auto& [key, value] : before.rows) {
      ASSERT_EQ(after.rows.count(key), 1u) << key;
      ASSERT_EQ(after.rows.at(key), value) << key;
    }
    ASSERT_TRUE(after == before);
    BeatShards();
  }
  // The running counts are those of the rows.
  void CheckFigures() {
    Decide([](ClusterState& s, Moment now) {
      const ClusterFigures figures = s.Figures(now);
      std::map<int, int64_t> jobs;
      for (const auto& [sequence, row] : s.jobs().by_sequence()) ++jobs[row->state()];
      for (int state = 0; state < ClusterFigures::kStates; ++state) {
        EXPECT_EQ(figures.jobs[state], jobs[state]) << state;
      }
      std::map<int, int64_t> leases;
      for (const auto& [id, lease] : s.leases().live()) ++leases[lease.row->kind()];
      for (int kind = 0; kind < ClusterFigures::kKinds; ++kind) {
        EXPECT_EQ(figures.live_leases[kind], leases[kind]) << kind;
      }
      int64_t sealed = 0;
      for (const auto& [id, dataset] : s.datasets().all()) sealed += dataset.sealed().size();
      EXPECT_EQ(figures.sealed_triples, sealed);
      return true;
    });
  }
  void Check(const std::set<int64_t>& acknowledged) {
    CheckFigures();
    Decide([&](ClusterState& s, Moment) {
      dataset::IndexSet leased;
      int64_t total = 0;
      for (const auto& [id, progress] : s.leases().live()) {
        const auto& row = *s.leases().Find(id);
        if (row.kind() != v1::TASK_KIND_SIMULATE) continue;
        total += row.range().end() - row.range().begin();
        leased.Add(row.range().begin(), row.range().end());
      }
      EXPECT_EQ(leased.size(), total) << "two leases overlap";
      for (const auto& [id, row] : s.datasets().all()) {
        EXPECT_TRUE(s.datasets().Find(id)->leased() == leased);
        for (const int64_t index : acknowledged) {
          EXPECT_TRUE(s.datasets().Find(id)->sealed().Contains(index)) << "lost " << index;
        }
      }
      return true;
    });
  }

  void Run(uint32_t seed);

  common::FakeClock clock_;
  Rows rows_;
  uint64_t incarnation_ = 0;
  int jobs_made_ = 0;
  int restarts_ = 0;
  std::unique_ptr<Coordinator> coordinator_;
};

template <typename Rows>
void RestartTest<Rows>::Run(uint32_t seed) {
  std::mt19937 random(seed);
  const auto chance = [&](int percent) { return static_cast<int>(random() % 100) < percent; };
  Load({});
  Decide([](ClusterState& s, Moment) {
    rows::v1::PromptListRow row;
    row.set_prompt_count(100);
    s.AddPromptList(kPrompts, row);
    return true;
  });
  BeatShards();
  JobProposal proposal;
  proposal.spec = SmallSpec();
  ASSERT_TRUE(spec::NormalizeSpec(&proposal.spec).empty());
  proposal.teacher = {kTeacher, 4, 8, 8};
  proposal.request_id = "once";
  const auto created =
      Decide([&](ClusterState& s, Moment now) { return s.CreateJob(proposal, now); });
  ASSERT_THAT(created, IsOk());
  const std::string job = created->name();

  std::set<int64_t> acknowledged;
  std::vector<Held> held;
  v1::GangAssignment gang;
  int64_t step = 0;
  int64_t committed = 0;
  v1::Job view = *created;
  for (int i = 0; i < 3000 && view.state() == v1::Job::STATE_RUNNING; ++i) {
    clock_.AdvanceTime(absl::Milliseconds(300));
    coordinator_->Tick();
    BeatShards();
    if (chance(8)) {
      Restart();
      ++restarts_;
      if (this->HasFatalFailure()) return;
    }
    // A worker asks for work, of any kind.
    if (held.size() < 3 && chance(50)) {
      const std::string worker = absl::StrCat("w", random() % 4);
      v1::LeaseTaskRequest request;
      *request.mutable_worker() = Harness::Worker(worker);
      for (const auto kind :
           {v1::TASK_KIND_SIMULATE, v1::TASK_KIND_EVALUATE, v1::TASK_KIND_EXPORT}) {
        request.add_kinds(kind);
      }
      const auto leased =
          Decide([&](ClusterState& s, Moment now) { return s.LeaseTask(request, now); });
      ASSERT_THAT(leased, IsOk());
      if (leased->has_task()) held.push_back({worker, leased->task()});
    }
    // Some work goes on, some is forgotten (and lapses), some fails, some is done.
    for (size_t k = 0; k < held.size();) {
      Held& work = held[k];
      const int what = static_cast<int>(random() % 100);
      bool over = false;
      if (what < 60) {
        v1::HeartbeatTaskRequest beat;
        beat.set_task(work.task.name());
        beat.set_lease_id(work.task.lease_id());
        beat.set_progress(++work.progress);
        const auto answer =
            Decide([&](ClusterState& s, Moment now) { return s.HeartbeatTask(beat, now); });
        ASSERT_THAT(answer, IsOk());
        over = answer->revoked();
      } else if (what < 90) {
        v1::CompleteTaskRequest complete;
        complete.set_task(work.task.name());
        complete.set_lease_id(work.task.lease_id());
        *complete.mutable_worker() = Harness::Worker(work.worker);
        if (work.task.has_simulate()) {
          auto& sealed = *complete.mutable_simulate()->mutable_sealed();
          *sealed.mutable_range() = work.task.simulate().range();
          sealed.set_digest(Harness::Digest(sealed.range().begin(), sealed.range().end()));
        } else if (work.task.has_evaluate()) {
          complete.mutable_evaluate()->set_checkpoint_step(work.task.evaluate().checkpoint_step());
        } else {
          complete.mutable_export_()->set_checkpoint_step(work.task.export_().checkpoint_step());
        }
        ASSERT_THAT(
            Decide([&](ClusterState& s, Moment now) { return s.CompleteTask(complete, now); }),
            IsOk());
        if (work.task.has_simulate()) {
          const auto& range = work.task.simulate().range();
          for (int64_t n = range.begin(); n < range.end(); ++n) acknowledged.insert(n);
        }
        over = true;
      } else if (what < 95) {
        v1::FailTaskRequest fail;
        fail.set_task(work.task.name());
        fail.set_lease_id(work.task.lease_id());
        *fail.mutable_worker() = Harness::Worker(work.worker);
        fail.set_reason(chance(10) ? v1::FailTaskRequest::REASON_ERROR
                                   : v1::FailTaskRequest::REASON_PREEMPTED);
        ASSERT_THAT(Decide([&](ClusterState& s, Moment now) { return s.FailTask(fail, now); }),
                    IsOk());
        over = true;
      } else if (what < 97) {
        over = true;  // killed
      }
      if (over) {
        held.erase(held.begin() + static_cast<std::ptrdiff_t>(k));
      } else {
        ++k;
      }
    }
    // The agent: joins when it is not known, runs what it is told, sometimes breaks.
    auto report =
        Harness::Report("agent",
                        gang.generation() == 0 ? v1::GangHeartbeatRequest::AGENT_STATE_IDLE
                                               : v1::GangHeartbeatRequest::AGENT_STATE_RUNNING,
                        gang, step);
    if (gang.generation() != 0 && chance(3)) {
      report.set_state(v1::GangHeartbeatRequest::AGENT_STATE_BROKEN);
    }
    if (gang.generation() != 0 && step == 100 && committed == 100) {
      report.set_state(v1::GangHeartbeatRequest::AGENT_STATE_LEFT);
    }
    const auto told =
        Decide([&](ClusterState& s, Moment now) { return s.GangHeartbeat(report, now); });
    if (absl::IsNotFound(told.status())) {
      v1::JoinGangRequest join;
      join.set_agent("agent");
      join.set_node("node");
      join.set_slots(2);
      ASSERT_THAT(Decide([&](ClusterState& s, Moment now) { return s.JoinGang(join, now); }),
                  IsOk());
      gang.Clear();
    } else if (told->action() != v1::GangHeartbeatResponse::ACTION_RUN) {
      gang.Clear();
    } else if (told->assignment().generation() != gang.generation()) {
      gang = told->assignment();
      step = gang.work().resume().step();
      ASSERT_EQ(step, committed) << "resumes from the last commit";
    }
    if (gang.generation() != 0 && step < 100) step += 5;
    if (gang.generation() != 0 && step % 25 == 0 && step > committed) {
      v1::CommitCheckpointRequest commit;
      commit.set_job(job);
      commit.set_generation(gang.generation());
      commit.set_step(step);
      commit.set_path(absl::StrCat("/tmp/out/checkpoints/step-", step));
      commit.set_manifest_digest(absl::StrFormat("%032x", step));
      ASSERT_THAT(
          Decide([&](ClusterState& s, Moment now) { return s.CommitCheckpoint(commit, now); }),
          IsOk());
      committed = step;
    }
    Check(acknowledged);
    const auto now_view = Decide([&](ClusterState& s, Moment now) { return s.GetJob(job, now); });
    ASSERT_THAT(now_view, IsOk());
    view = *now_view;
    if (this->HasFailure()) return;
  }
  EXPECT_EQ(view.state(), v1::Job::STATE_SUCCEEDED) << view.DebugString();
  EXPECT_EQ(acknowledged.size(), 128u);
  EXPECT_EQ(jobs_made_, 1);
}

using Kinds = ::testing::Types<Memory, Disk>;
TYPED_TEST_SUITE(RestartTest, Kinds);

TYPED_TEST(RestartTest, LosesNothing) {
  const int seeds = std::is_same_v<TypeParam, Memory> ? 30 : 1;
  for (int seed = 1; seed <= seeds; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    // A fresh fixture's state for each seed.
    if (seed > 1) {
      this->coordinator_.reset();
      std::destroy_at(&this->rows_);
      std::construct_at(&this->rows_);
      this->jobs_made_ = 0;
    }
    this->Run(static_cast<uint32_t>(seed));
    if (this->HasFailure()) return;
  }
  EXPECT_GE(this->restarts_, seeds) << "the runs prove little";
}

}  // namespace
}  // namespace d2g::coordinator

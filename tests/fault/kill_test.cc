// kill -9 of every kind of process at random moments of a job: nothing acknowledged is lost and
// nothing is there twice.
//
// D2G_FAULT_SEED draws other moments and another order, D2G_FAULT_ROUNDS kills each kind that many
// times (1 by default, for the time it takes).
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/test_cluster.h"
#include "tests/testing/test_job.h"
#include "tests/testing/torch/tiny_teacher.h"
#include "tests/testing/wait.h"

namespace d2g {
namespace {

using ::d2g::coordinator::v1::Job;
using ::d2g::testing::IsOk;
using ::d2g::testing::Role;
using ::d2g::testing::TestCluster;
using ::d2g::testing::WaitFor;
using ::testing::Each;

constexpr absl::Duration kPatience = absl::Minutes(2);

int64_t FromEnvironment(const char* name, int64_t otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : std::atoll(value);
}

// kStore is struck while workers simulate, kReadStore while ranks train.
enum class Victim { kCoordinator, kStore, kReadStore, kWorker, kAgent, kRank };

class KillTest : public ::testing::Test {
 protected:
  KillTest() : random_(static_cast<uint64_t>(FromEnvironment("D2G_FAULT_SEED", 1))) {
    testing::WriteTinyTeacher(cluster_.dir().File("teacher"));
  }

  absl::Duration UpTo(absl::Duration limit) {
    return std::uniform_real_distribution<double>(0, 1)(random_) * limit;
  }
  int Below(int n) { return std::uniform_int_distribution<int>(0, n - 1)(random_); }

  absl::StatusOr<Job> Now() {
    coordinator::v1::GetJobRequest request;
    request.set_name(job_);
    return cluster_.client().GetJob(request, absl::Now() + kPatience);
  }
  // Optimiser steps done, as the coordinator last heard.
  int64_t Steps() {
    const auto job = Now();
    if (!job.ok()) return 0;
    for (const auto& stage : job->stages()) {
      if (stage.stage() == coordinator::v1::STAGE_TRAIN) return stage.done();
    }
    return 0;
  }
  static bool Alive(pid_t pid) { return kill(pid, 0) == 0; }

  void KillAndRestart(Role role, int number) {
    cluster_.Kill(role, number);
    absl::SleepFor(UpTo(absl::Seconds(1)));
    ASSERT_THAT(cluster_.Restart(role, number), IsOk());
  }

  void Strike(Victim victim) {
    switch (victim) {
      case Victim::kCoordinator:
        return KillAndRestart(Role::kCoordinator, 0);
      case Victim::kStore:
      case Victim::kReadStore:
        return KillAndRestart(Role::kStore, Below(2));
      case Victim::kWorker:
        return KillAndRestart(Role::kWorker, Below(2));
      case Victim::kAgent: {
        ASSERT_TRUE(WaitFor([&] { return cluster_.RankPids().size() == 2; }, kPatience));
        const std::vector<pid_t> ranks = cluster_.RankPids();
        KillAndRestart(Role::kTrainer, 0);
        // Ranks do not outlive their agent.
        for (const pid_t rank : ranks) {
          EXPECT_TRUE(WaitFor([&] { return !Alive(rank); })) << rank;
        }
        return;
      }
      case Victim::kRank: {
        ASSERT_TRUE(WaitFor([&] { return cluster_.RankPids().size() == 2; }, kPatience));
        const std::vector<pid_t> ranks = cluster_.RankPids();
        ASSERT_FALSE(ranks.empty());
        ASSERT_EQ(kill(ranks[static_cast<size_t>(Below(static_cast<int>(ranks.size())))], SIGKILL),
                  0);
        return;
      }
    }
  }

  std::mt19937_64 random_;
  TestCluster cluster_;
  std::string job_;
};

TEST_F(KillTest, TheJobSucceedsThoughEveryKindOfProcessIsKilled) {
  constexpr int64_t kTriples = 512;
  const int64_t rounds = FromEnvironment("D2G_FAULT_ROUNDS", 1);
  // Long enough that a fast machine is still training when the last kill comes.
  const int64_t steps = 1500 * rounds;
  ASSERT_THAT(cluster_.Start(), IsOk());
  auto spec = testing::MakeTestJob(cluster_.dir().File("teacher"), cluster_.dir().File("out"),
                                   kTriples, steps);
  spec.mutable_simulate()->set_min_triples(128);
  spec.mutable_simulate()->mutable_solver()->set_steps(30);
  ASSERT_OK_AND_ASSIGN(const Job submitted, cluster_.Submit(spec, testing::kTestPrompts));
  job_ = submitted.name();

  // What simulates is struck from the start on, what trains once it trains.
  std::vector<Victim> victims;
  for (int64_t round = 0; round < rounds; ++round) {
    std::vector<Victim> all = {Victim::kCoordinator, Victim::kStore, Victim::kReadStore,
                               Victim::kWorker,      Victim::kAgent, Victim::kRank};
    std::shuffle(all.begin(), all.end(), random_);
    victims.insert(victims.end(), all.begin(), all.end());
  }
  std::stable_partition(victims.begin(), victims.end(), [](Victim victim) {
    return victim == Victim::kWorker || victim == Victim::kStore;
  });
  for (const Victim victim : victims) {
    if (victim != Victim::kWorker && victim != Victim::kStore) {
      const int64_t step = Steps() + 1 + Below(50);
      ASSERT_TRUE(WaitFor([&] { return Steps() >= step; }, kPatience)) << cluster_.Logs();
    } else {
      absl::SleepFor(UpTo(absl::Seconds(2)));
    }
    ASSERT_OK_AND_ASSIGN(const Job job, Now());
    ASSERT_EQ(job.state(), Job::STATE_RUNNING)
        << "the job ended before the last kill: " << job.DebugString() << cluster_.Logs();
    std::cout << "kill " << static_cast<int>(victim) << " at step " << Steps() << std::endl;
    Strike(victim);
    if (HasFatalFailure()) return;
  }

  ASSERT_OK_AND_ASSIGN(const Job job, cluster_.WaitForEnd(job_, absl::Minutes(6)));
  ASSERT_EQ(job.state(), Job::STATE_SUCCEEDED) << job.DebugString() << cluster_.Logs();
  EXPECT_EQ(job.checkpoint_step(), steps);
  // An agent or rank that dies ends a generation; nothing else does.
  EXPECT_EQ(job.generation(), 1 + 2 * rounds) << cluster_.Logs();
  EXPECT_TRUE(std::filesystem::exists(job.export_().path() + "/unet/config.json"));
  ASSERT_OK_AND_ASSIGN(const auto audit, cluster_.Audit(job.dataset(), kTriples));
  EXPECT_EQ(audit.present, kTriples);
  EXPECT_EQ(audit.checked, kTriples);
  EXPECT_EQ(audit.bad, 0);
  EXPECT_THAT(audit.copies, Each(1));
}

}  // namespace
}  // namespace d2g

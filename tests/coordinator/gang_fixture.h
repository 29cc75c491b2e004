// What the tests of gangs share: a job that wants to train, and the reports of agents.
#pragma once

#include <string>

#include "coordinator/rows/limits.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/harness.h"
#include "tests/testing/status_matchers.h"

namespace d2g::coordinator {

inline constexpr auto kIdle = v1::GangHeartbeatRequest::AGENT_STATE_IDLE;
inline constexpr auto kRunning = v1::GangHeartbeatRequest::AGENT_STATE_RUNNING;
inline constexpr auto kLeft = v1::GangHeartbeatRequest::AGENT_STATE_LEFT;
inline constexpr auto kBroken = v1::GangHeartbeatRequest::AGENT_STATE_BROKEN;
inline constexpr auto kDraining = v1::GangHeartbeatRequest::AGENT_STATE_DRAINING;

// One job whose triples are all there, so that it wants to train.
class GangTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto job = h_.Create(Spec());
    ASSERT_THAT(job, d2g::testing::IsOk());
    job_ = job->name();
    h_.SimulateAll();
  }
  virtual v1::JobSpec Spec() const { return SmallSpec(); }
  v1::GangHeartbeatResponse Beat(const v1::GangHeartbeatRequest& request) {
    const auto response = h_.BeatGang(request);
    EXPECT_THAT(response, d2g::testing::IsOk());
    return response.ok() ? *response : v1::GangHeartbeatResponse();
  }
  v1::GangHeartbeatResponse::Action Action(const v1::GangHeartbeatRequest& request) {
    return Beat(request).action();
  }
  // One agent with both ranks, running.
  v1::GangAssignment StartOne(const std::string& agent = "a") {
    EXPECT_THAT(h_.Join(agent, 2), d2g::testing::IsOk());
    h_.coordinator().Tick();
    const v1::GangAssignment assignment = Beat(Harness::Report(agent, kIdle)).assignment();
    EXPECT_EQ(assignment.world_size(), 2);
    EXPECT_EQ(Action(Harness::Report(agent, kRunning, assignment, 1)),
              v1::GangHeartbeatResponse::ACTION_RUN);
    return assignment;
  }

  absl::Status Snapshot(int64_t epoch) {
    v1::GetOrCreateSnapshotRequest request;
    request.set_job(job_);
    request.set_epoch(epoch);
    return h_.Decide([&](ClusterState& s, Moment) { return s.GetOrCreateSnapshot(request); })
        .status();
  }
  // Passes time in which the agent has nothing to do.
  void Idle(absl::Duration time) {
    for (absl::Duration passed; passed < time; passed += absl::Seconds(1)) {
      h_.Advance(absl::Seconds(1));
      EXPECT_EQ(Action(Harness::Report("a", kIdle)), v1::GangHeartbeatResponse::ACTION_IDLE);
    }
  }
  // Shard 1 goes away under generation 1, which breaks, and comes back with an empty volume.
  void LoseShard1() {
    const v1::GangAssignment first = StartOne();
    h_.StopShard(1);
    Beat(Harness::Report("a", kRunning, first, 1));
    h_.Advance(kShardTimeout / 2);
    Beat(Harness::Report("a", kRunning, first, 1));
    h_.Advance(kShardTimeout / 2 + absl::Seconds(1));
    Beat(Harness::Report("a", kBroken, first));
    Idle(2 * kMaxGangBackoff);
    EXPECT_THAT(h_.Get(job_).health(), ::testing::Contains("1 of 2 shards down: 1"));
    EXPECT_THAT(h_.BeatShard(1, {}, "another"), d2g::testing::IsOk());
  }

  Harness h_;
  std::string job_;
};

}  // namespace d2g::coordinator

// A node's agent in the training gang.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "coordinator/client/client.h"
#include "d2g/coordinator/v1/training_service.pb.h"
#include "services/common/clock.h"
#include "services/common/metrics.h"
#include "worker/gang/gang_metrics.h"
#include "worker/gang/rank_group.h"

namespace d2g::gang {

struct GangAgentOptions {
  // Unique for a process.
  std::string agent;
  std::string node;
  std::string build;
  // Ranks that this node can run.
  int slots = 1;
  // As JoinGang says it ("cpu" or the GPU's name).
  std::string device_name = "cpu";
  // What every rank is started with; the agent fills in the assignment.
  RankLaunch launch;
  // How ranks are run; on_change is the agent's own.
  RankGroupOptions ranks;
  // Deadline of one call to the coordinator.
  absl::Duration rpc_timeout = absl::Seconds(5);
};

// Joins the gang, reports by heartbeat what runs here and makes it what the answer says should run.
//
//   answer                    what the agent does
//   RUN a generation          starts its ranks, or keeps them when they run already; ranks of
//                             another generation are killed first
//   CHECKPOINT_AND_LEAVE      SIGTERM to the ranks, then reports LEFT
//   IDLE                      kills what runs
//   NOT_FOUND                 joins again and reports what runs: a restarted coordinator adopts it
//   none (unreachable)        nothing: ranks keep running
//
// A generation that ended here (LEFT or BROKEN) is reported until the answer says otherwise and is
// never started a second time. Draining: the ranks are told to checkpoint and leave whatever the
// coordinator says, then the agent leaves. Thread-safe.
class GangAgent {
 public:
  // Neither `client` nor `metrics` is owned; both outlive the agent.
  GangAgent(GangAgentOptions options, coordinator::CoordinatorClient* client,
            common::Metrics* metrics);
  // Kills the ranks.
  ~GangAgent();
  GangAgent(const GangAgent&) = delete;
  GangAgent& operator=(const GangAgent&) = delete;

  // Runs until drained. Call once. True when ranks ran here that were told to leave before their
  // training was done: then it goes on later or elsewhere.
  bool Run() ABSL_LOCKS_EXCLUDED(mutex_);
  // Makes Run drain: returns at once.
  void Drain() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  using HeartbeatRequest = coordinator::v1::GangHeartbeatRequest;
  using HeartbeatResponse = coordinator::v1::GangHeartbeatResponse;

  // Marks that something changed; safe on any thread.
  void Wake() ABSL_LOCKS_EXCLUDED(mutex_);
  // Waits until something changed, an answer came or a tick has passed; takes the answer.
  std::optional<HeartbeatResponse> WaitForWork() ABSL_LOCKS_EXCLUDED(mutex_);
  void Obey(const HeartbeatResponse& answer);
  void StartGeneration(const coordinator::v1::GangAssignment& assignment);
  // Looks at the ranks; true when something changed that should be reported at once.
  bool LookAtRanks();
  HeartbeatRequest Report(bool draining) const;

  // The talking thread: joins, sends the reports that the control thread prepares and hands back
  // the answers. Apart, so that a coordinator that hangs delays nothing else.
  void Talk() ABSL_LOCKS_EXCLUDED(mutex_);
  // Joins, trying until it succeeds; false when the agent is done first.
  bool Join() ABSL_LOCKS_EXCLUDED(mutex_);
  // Waits; false when the agent is done.
  bool SleepFor(absl::Duration duration) ABSL_LOCKS_EXCLUDED(mutex_);

  const GangAgentOptions options_;
  coordinator::CoordinatorClient* const client_;
  GangMetrics metrics_;

  // Control thread only. The last generation started here, also after it ended.
  std::unique_ptr<RankGroup> group_;
  // The coordinator has been told how group_ ended and said IDLE.
  bool group_forgotten_ = false;
  // What was last looked at; a change is reported at once.
  std::string seen_rendezvous_;
  RankGroup::State seen_state_ = RankGroup::State::kRunning;

  mutable absl::Mutex mutex_;
  bool changed_ ABSL_GUARDED_BY(mutex_) = false;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  // No report after report_.
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
  HeartbeatRequest report_ ABSL_GUARDED_BY(mutex_);
  // report_ is not to wait for the interval.
  bool report_now_ ABSL_GUARDED_BY(mutex_) = false;
  // An answer not yet acted on. While it is set no report is sent, so that none predates it.
  bool answer_pending_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<HeartbeatResponse> answer_ ABSL_GUARDED_BY(mutex_);
  absl::Duration heartbeat_interval_ ABSL_GUARDED_BY(mutex_) = absl::Seconds(1);
};

}  // namespace d2g::gang

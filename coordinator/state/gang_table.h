// Training gangs: which agents run which ranks of which generation.
//
// A generation is a fixed list of members (an agent, its first rank, its rank count). Its life:
//   formed   enough free slots for min_ranks, and either max_ranks is reached, or the previous size
//            is, or nobody joined for the settle time. Members are told RUN at their next
//            heartbeat.
//   broken   a member says BROKEN, goes silent, stops without a word, leaves before the last step,
//            or does not start its ranks in time. The next generation starts from the last
//            checkpoint, after a back-off. What an agent says of it later replaces the reason where
//            that was only the loss of a peer.
//   leaving  told to checkpoint and leave: the job was paused, or a member drains. Over when all
//            members have left; does not count as a failure.
//   finished the last checkpoint is committed: members leave by themselves.
// After a restart the members of an active generation count as heard of; they go on when they
// report in, and break the generation when they stay silent for the agent timeout.
//
// An agent whose ranks did not start is left out of the next generations for a time that grows, as
// long as the others suffice.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "coordinator/rows/tables.h"
#include "d2g/coordinator/v1/training_service.pb.h"

namespace d2g::coordinator {

// A job that wants to train now.
struct TrainDemand {
  std::string job;
  int32_t min_ranks = 1;
  int32_t max_ranks = 1;
  int64_t resume_step = 0;
};

// Something that happened to a generation.
struct GangEvent {
  // kExplained: one that is broken already, by the loss of a peer, has its real reason now.
  enum class Kind { kFormed, kBroken, kExplained, kLeft };
  Kind kind;
  std::string job;
  int64_t generation = 0;
  std::string error;
  // No other generation can do better: the job cannot go on.
  bool hopeless = false;
};
using GangEvents = std::vector<GangEvent>;

struct GangOptions {
  // How long nobody may join before a gang forms that is smaller than it could be.
  absl::Duration settle = absl::Seconds(2);
  // An agent that was silent for this long is lost.
  absl::Duration agent_timeout = absl::Seconds(15);
  // Ranks that have not begun to load this long after they could start break their generation.
  absl::Duration start_timeout = absl::Minutes(2);
  // A finished generation is told to stop after this.
  absl::Duration finish_grace = absl::Seconds(60);
};

// Owns the gang rows, which persist; everything about agents but their membership is reported anew
// after a restart. Thread-compatible; holds no time of its own.
class GangTable {
 public:
  using Request = v1::GangHeartbeatRequest;
  using Action = v1::GangHeartbeatResponse::Action;
  using Ranks = std::map<int32_t, v1::RankStatus>;
  using Failure = Request::Failure;

  // A member whose ranks have not started.
  struct Awaited {
    std::string agent;
    std::string node;
    absl::Duration waiting;
  };

  // What an agent should run.
  struct Answer {
    Action action = v1::GangHeartbeatResponse::ACTION_IDLE;
    // With ACTION_RUN.
    std::string job;
    int64_t generation = 0;
    int64_t resume_step = 0;
    int32_t world_size = 0;
    int32_t first_rank = 0;
    int32_t rank_count = 0;
    std::string rendezvous;
  };

  GangTable(GangOptions options, Table<rows::v1::GangRow> rows, absl::Duration now);

  // A new agent, or a known one again. INVALID_ARGUMENT names the bad field and its limit.
  absl::Status Join(const v1::JoinGangRequest& request, absl::Duration now);
  // Takes an agent's report. NOT_FOUND when it has to join first.
  absl::StatusOr<GangEvents> Report(const Request& request, absl::Duration now);
  Answer AnswerFor(absl::string_view agent) const;

  // Drops silent agents and forms generations for `demands`, which are served in order.
  GangEvents Tick(const std::vector<TrainDemand>& demands, absl::Duration now);

  // Tells the job's generation to checkpoint and leave. Does nothing when none is active.
  void Leave(absl::string_view job);
  // Ends the job's generation now: its members are told to kill their ranks.
  void Kill(absl::string_view job, absl::Duration now);
  // The job's last checkpoint is committed.
  void Finish(absl::string_view job, absl::Duration now);
  // A checkpoint was committed: earlier failures no longer count.
  void NoteCheckpoint(absl::string_view job);
  // Forgets a job. REQUIRES: no active generation.
  void EraseJob(absl::string_view job);
  // After a pause of this process: every agent counts as heard of `now`.
  void Grace(absl::Duration now);

  bool Active(absl::string_view job) const;
  // Null before the first generation.
  const rows::v1::GangRow* Find(absl::string_view job) const { return rows_.Find(job); }
  // Latest report by rank of the active generation; empty when there is none.
  const Ranks& RanksOf(absl::string_view job) const;
  size_t agent_count() const { return agents_.size(); }
  // Slots of agents that run nothing and could.
  int32_t FreeSlots() const;
  // Slots of all agents that do not drain.
  int32_t AllSlots() const;
  // The first member of the job's generation that could have started its ranks and has not.
  std::optional<Awaited> FirstAwaited(absl::string_view job, absl::Duration now) const;
  const GangOptions& options() const { return options_; }

  void TakeChanges(RowChanges* changes) { rows_.TakeChanges(changes); }
  void CopyTo(RowChanges* all) const { rows_.CopyTo(all); }

 private:
  struct Agent {
    std::string node;
    int32_t slots = 0;
    int64_t order = 0;
    absl::Duration last_seen;
    bool draining = false;
    std::string assigned_job;  // empty: free
    bool started = false;      // reported RUNNING in the assigned generation
    bool left = false;         // left the assigned generation
    int failed_starts = 0;     // generations in a row that did not start because of it
    absl::Duration left_out_until;
  };
  // What is known of a job's active generation and not persisted.
  struct Live {
    std::string rendezvous;
    Ranks ranks;
    // When the ranks of rank 0's agent could start, and those of the others.
    absl::Duration formed;
    absl::Duration rendezvous_known;
    bool all_started = false;
    bool finished = false;
    absl::Duration finish_deadline;
  };

  // How a generation broke.
  struct Cause {
    std::string error;
    Failure failure = Request::FAILURE_UNSPECIFIED;
    int64_t step = 0;
  };
  void Break(absl::string_view job, const Cause& cause, absl::Duration now, GangEvents* events);
  // Keeps the cause with the job; the event is complete but for its kind.
  GangEvent NoteCause(absl::string_view job, const Cause& cause);
  // Takes what a member says of a generation that is already broken.
  void Explain(const Request& request, const Cause& cause, GangEvents* events);
  void LeaveOut(Agent& agent, absl::Duration now);
  // Records that all ranks have begun to load, so their agents are known to be able to start them.
  void NoteStart(const rows::v1::GangRow& gang, Live* live);
  // Whether all ranks of the member have begun to load.
  bool RanksStarted(const Live& live, const rows::v1::GangRow::Member& member) const;
  // Ends a generation: frees its members.
  void End(absl::string_view job, absl::Duration now);
  // The agent no longer runs its part: a generation that is leaving or finished goes on to its end,
  // any other is broken.
  void MemberGone(const std::string& agent_id, const Cause& cause, absl::Duration now,
                  GangEvents* events);
  // Breaks the generations whose ranks do not start.
  void BreakOverdueStarts(absl::Duration now, GangEvents* events);
  // The agents that a generation may take now, in the order of joining.
  std::vector<std::string> Candidates(const TrainDemand& demand, absl::Duration now) const;
  bool TryForm(const TrainDemand& demand, absl::Duration now, GangEvents* events);

  GangOptions options_;
  Table<rows::v1::GangRow> rows_;
  std::map<std::string, Agent, std::less<>> agents_;
  std::map<std::string, Live, std::less<>> live_;
  std::map<std::string, absl::Duration, std::less<>> not_before_;  // back-off by job
  int64_t next_order_ = 0;
  absl::Duration pool_changed_;  // when an agent last joined, was freed or was lost
};

}  // namespace d2g::coordinator

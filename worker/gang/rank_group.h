// The rank processes of one generation on this node.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "d2g/coordinator/v1/training_service.pb.h"
#include "services/common/child_process.h"
#include "services/common/clock.h"
#include "worker/gang/rank_channel.h"

namespace d2g::gang {

struct RankGroupOptions {
  // argv that a rank's own flags are appended to; one element in production.
  std::vector<std::string> rank_command;
  // Folder for the assignment files; made by the caller.
  std::string work_dir;
  // A rank whose step, phase and progress stay for this long is taken for hung and killed, unless
  // its phase is one that may last (load, data_wait, commit_wait).
  absl::Duration hang_timeout = absl::Minutes(5);
  // After SIGTERM, or once one rank has left by itself, the others have this long.
  absl::Duration leave_timeout = absl::Minutes(2);
  // When a rank exits because it lost a peer, wait this long for the peer's own exit, whose message
  // is the cause.
  absl::Duration cause_wait = absl::Seconds(2);
  // Called on a rank's monitor thread when something changed that Poll should look at. Must not
  // block and must not call the group.
  std::function<void()> on_change;
  // Called on a rank's monitor thread for each line that it writes.
  std::function<void(int rank, std::string_view line)> on_output_line;
  const common::Clock* clock = common::RealClock::Get();
};

// Starts rank 0 first (when it is here) and the others once its rendezvous address is known,
// watches that they move, and turns the first death that is not another's consequence into the end
// of all. The ranks die with the group. Owned and called by one thread; the ranks' reports arrive
// on their monitor threads.
class RankGroup {
 public:
  enum class State {
    // Ranks run, or wait for the rendezvous address.
    kRunning,
    // Every rank left by itself: exit code 0 or common::kExitStopped.
    kLeft,
    // A rank died, hung or would not leave; the others were killed. error() says how, failure()
    // of which kind it was.
    kBroken,
  };

  using Failure = coordinator::v1::GangHeartbeatRequest::Failure;

  // How many ranks ended in which way; for metrics.
  struct Counts {
    int started = 0;
    int finished = 0;
    int stopped = 0;
    int died = 0;
    int hung = 0;
  };

  RankGroup(RankLaunch launch, RankGroupOptions options);
  // Kills what still runs.
  ~RankGroup();
  RankGroup(const RankGroup&) = delete;
  RankGroup& operator=(const RankGroup&) = delete;

  // Tells the ranks that wait where rank 0 listens. Later calls change nothing.
  void SetRendezvous(const std::string& address);
  // SIGTERM to all ranks: checkpoint and leave. Idempotent. Ranks not started yet never start.
  // Ranks that all still load have nothing to save: they are killed and count as left.
  void RequestLeave();
  // SIGKILL to all and wait; the state becomes kBroken with `reason` unless it was final.
  void Kill(std::string_view reason);
  // Looks at exits and clocks, starts ranks that can start, and returns the state now.
  State Poll();

  State state() const { return state_; }
  const RankLaunch& launch() const { return launch_; }
  // Begins with the rank's own last words, where it said any.
  const std::string& error() const { return cause_.error; }
  Failure failure() const { return cause_.failure; }
  // The step in which gradients were not finite, from 1; 0 for other failures.
  int64_t failed_step() const { return cause_.step; }
  // Address of rank 0's TCPStore; empty until a rank 0 here has said it or SetRendezvous was told.
  std::string rendezvous() const;
  // Whether rank 0 runs here.
  bool has_rank_zero() const { return launch_.assignment.first_rank() == 0; }
  // As last reported, by rank; ranks that have not started are missing.
  std::vector<coordinator::v1::RankStatus> ranks() const;
  const Counts& counts() const { return counts_; }
  // Rank processes that run now.
  int running() const;

 private:
  // A rank. `process` is touched by the owner's thread only; the reports are shared.
  struct Rank {
    int rank = 0;
    bool ended = false;
    bool left = false;
    mutable absl::Mutex mutex;
    coordinator::v1::RankStatus status ABSL_GUARDED_BY(mutex);
    std::string rendezvous ABSL_GUARDED_BY(mutex);
    int64_t progress ABSL_GUARDED_BY(mutex) = 0;
    // When its step, phase or progress last changed.
    absl::Duration moved_at ABSL_GUARDED_BY(mutex);
    // Last: its monitor thread uses the members above.
    std::unique_ptr<common::ChildProcess> process;
  };

  struct Cause {
    std::string error;
    Failure failure = coordinator::v1::GangHeartbeatRequest::FAILURE_UNSPECIFIED;
    int64_t step = 0;
  };

  void StartRanks();
  absl::Status StartRank(Rank& rank);
  void OnStatusLine(Rank& rank, std::string_view line);
  // Takes note of an exit; breaks the group when it was a death.
  void LookAtExit(Rank& rank);
  Cause CauseOf(const Rank& rank, const common::ExitStatus& exit) const;
  // Breaks the group when the rank has not moved for too long.
  void LookForHang(Rank& rank);
  // Whether every rank that runs has not begun to train.
  bool AllLoad() const;
  void Break(Cause cause);
  void KillAll();

  RankLaunch launch_;
  const RankGroupOptions options_;
  State state_ = State::kRunning;
  Cause cause_;
  // The first loss of a peer: the cause unless that peer exits with its own before cause_deadline_.
  std::optional<Cause> peer_lost_;
  absl::Duration cause_deadline_;
  std::string given_rendezvous_;
  Counts counts_;
  bool leaving_ = false;
  // When the wait for the remaining ranks to leave ends; infinite while none was asked or has left.
  absl::Duration leave_deadline_ = absl::InfiniteDuration();
  // Last: its processes' monitor threads use the members above.
  std::vector<std::unique_ptr<Rank>> ranks_;
};

}  // namespace d2g::gang

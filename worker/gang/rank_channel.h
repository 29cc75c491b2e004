// What a gang agent and its rank processes tell each other.
//
// Agent to rank: command line `--assignment FILE --rank R --status-fd N`, where FILE holds a
// RankLaunch as JSON, and SIGTERM, which means "checkpoint at the next step, then exit with
// common::kExitStopped".
// Rank to agent: JSON lines on the inherited descriptor N, one RankReport each, and the exit code:
// 0 training is done and its last checkpoint is committed, common::kExitStopped left after a
// checkpoint as told, anything else broken: common::kExitBadInput, and kExitNotFinite and
// kExitPeerLost below. The last line on stderr of a rank that breaks says why, after "d2g-rank: ".
//
// Example of lines:
//   {"rendezvous":"127.0.0.1:41234"}                                   rank 0 only, first
//   {"phase":"step","step":12,"metrics":{"loss":0.1,"data_wait_seconds":0.002}}
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "d2g/coordinator/v1/training_service.pb.h"
#include "services/common/path_policy.h"
#include "services/common/program.h"

namespace d2g::gang {

// Gradients were not finite in too many steps in a row.
inline constexpr int kExitNotFinite = 76;
// Another rank was lost or did not come: it is the one that knows why.
inline constexpr int kExitPeerLost = 77;
// Name of the rank's program, with which the line begins that says why it broke.
inline constexpr char kRankProgram[] = "d2g-rank";
// Longest status line that an agent takes; a longer one is dropped.
inline constexpr size_t kMaxStatusLineBytes = size_t{64} * 1024;

// Phases that a rank reports; it is in kPhaseStart until its first report. kPhaseLoad,
// kPhaseDataWait and kPhaseCommitWait may last: they are never a hang.
inline constexpr char kPhaseStart[] = "start";
inline constexpr char kPhaseLoad[] = "load";
inline constexpr char kPhaseDataWait[] = "data_wait";
inline constexpr char kPhaseStep[] = "step";
inline constexpr char kPhaseCheckpoint[] = "checkpoint";
inline constexpr char kPhaseCommitWait[] = "commit_wait";
inline constexpr char kPhaseDone[] = "done";

// Everything that a rank is started with. A plain value.
struct RankLaunch {
  // The generation; `rendezvous` is set for every rank but 0.
  coordinator::v1::GangAssignment assignment;
  // host:port of the coordinator, for CommitCheckpoint and GetOrCreateSnapshot.
  std::string coordinator;
  // Host that rank 0's TCPStore listens on and tells the others.
  std::string advertise_host = "127.0.0.1";
  // "cpu", or "cuda": then rank first_rank + k of this agent uses GPU k.
  std::string device = "cpu";
  // Threads of a rank on a CPU.
  int threads = 1;
  // Who runs it.
  std::string agent;
  std::string node;
  // Where the job's paths may lie.
  common::PathPolicy paths;
  // "plain" or "json".
  std::string log_format = "plain";
};

// The launch as JSON: {"assignment": GangAssignment by protobuf's JSON rules, "coordinator": ...}.
absl::StatusOr<std::string> FormatRankLaunch(const RankLaunch& launch);
// INVALID_ARGUMENT names what is missing or malformed.
absl::StatusOr<RankLaunch> ParseRankLaunch(std::string_view json);

// One status line. What is absent has not changed.
struct RankReport {
  std::optional<std::string> rendezvous;
  std::optional<std::string> phase;
  std::optional<int64_t> step;
  // Counts pieces of work where phase and step stay the same for long: a change is a move.
  std::optional<int64_t> progress;
  std::map<std::string, double> metrics;
};

// One line without its newline.
std::string FormatRankReport(const RankReport& report);
// INVALID_ARGUMENT says what is wrong; the line is then to be ignored.
absl::StatusOr<RankReport> ParseRankReport(std::string_view line);

// The rank's end of the pipe. Not thread-safe. Writes block at most as long as the agent takes to
// read; when the agent is gone they fail with UNAVAILABLE (and PDEATHSIG ends the rank anyway).
class RankStatusWriter {
 public:
  // Does not own `fd`; a negative one makes every write a success that does nothing.
  explicit RankStatusWriter(int fd) : fd_(fd) {}

  absl::Status Write(const RankReport& report);

 private:
  const int fd_;
};

}  // namespace d2g::gang

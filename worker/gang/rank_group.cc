#include "worker/gang/rank_group.h"

#include <signal.h>

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/common/file_io.h"
#include "services/common/log.h"
#include "services/common/program.h"
#include "services/common/status_macros.h"
#include "services/common/utf8.h"

namespace d2g::gang {
namespace {

// A rank that cannot be killed is stuck in the kernel: there is nothing more to do about it.
constexpr absl::Duration kKillWait = absl::Seconds(10);
// How much of a dead rank's output the error holds that travels to the coordinator.
constexpr size_t kErrorLines = 6;
constexpr size_t kErrorLineBytes = 300;
// How much of the line in which the program itself says why it ends.
constexpr size_t kOwnWordsBytes = 1500;

using coordinator::v1::GangHeartbeatRequest;

bool MayLast(const std::string& phase) {
  return phase == kPhaseLoad || phase == kPhaseDataWait || phase == kPhaseCommitWait;
}

// What the program itself said last, without its name; nullopt when it was cut off.
std::optional<std::string> OwnWords(const std::vector<std::string>& lines) {
  const std::string prefix = absl::StrCat(kRankProgram, ": ");
  for (auto line = lines.rbegin(); line != lines.rend(); ++line) {
    if (!absl::StartsWith(*line, prefix)) continue;
    return common::ValidUtf8(absl::string_view(*line).substr(prefix.size()), kOwnWordsBytes);
  }
  return std::nullopt;
}

std::string LastWords(std::vector<std::string> lines) {
  if (lines.size() > kErrorLines) lines.erase(lines.begin(), lines.end() - kErrorLines);
  for (std::string& line : lines) line = common::ValidUtf8(line, kErrorLineBytes);
  return lines.empty() ? "no output" : absl::StrCat("last output: ", absl::StrJoin(lines, " | "));
}

}  // namespace

RankGroup::RankGroup(RankLaunch launch, RankGroupOptions options)
    : launch_(std::move(launch)), options_(std::move(options)) {
  const auto& assignment = launch_.assignment;
  given_rendezvous_ = assignment.rendezvous();
  for (int k = 0; k < assignment.rank_count(); ++k) {
    auto rank = std::make_unique<Rank>();
    rank->rank = assignment.first_rank() + k;
    ranks_.push_back(std::move(rank));
  }
  StartRanks();
}

RankGroup::~RankGroup() { KillAll(); }

void RankGroup::SetRendezvous(const std::string& address) {
  if (given_rendezvous_.empty()) given_rendezvous_ = address;
}

std::string RankGroup::rendezvous() const {
  if (!has_rank_zero()) return given_rendezvous_;
  absl::MutexLock lock(&ranks_.front()->mutex);
  return ranks_.front()->rendezvous;
}

std::vector<coordinator::v1::RankStatus> RankGroup::ranks() const {
  std::vector<coordinator::v1::RankStatus> result;
  for (const auto& rank : ranks_) {
    if (rank->process == nullptr) continue;
    absl::MutexLock lock(&rank->mutex);
    result.push_back(rank->status);
  }
  return result;
}

int RankGroup::running() const {
  int running = 0;
  for (const auto& rank : ranks_) running += rank->process != nullptr && !rank->ended;
  return running;
}

void RankGroup::StartRanks() {
  if (state_ != State::kRunning || leaving_) return;
  const std::string address = rendezvous();
  for (const auto& rank : ranks_) {
    if (rank->process != nullptr || rank->ended) continue;
    if (rank->rank != 0 && address.empty()) continue;
    if (absl::Status started = StartRank(*rank); !started.ok()) {
      Break({absl::StrCat("rank ", rank->rank, " did not start: ", started.message()),
             GangHeartbeatRequest::FAILURE_NOT_STARTED});
      return;
    }
  }
}

absl::Status RankGroup::StartRank(Rank& rank) {
  RankLaunch launch = launch_;
  if (rank.rank != 0) launch.assignment.set_rendezvous(rendezvous());
  D2G_ASSIGN_OR_RETURN(const std::string text, FormatRankLaunch(launch));
  const std::string path = absl::StrCat(options_.work_dir, "/assignment-g",
                                        launch.assignment.generation(), "-r", rank.rank, ".json");
  D2G_RETURN_IF_ERROR(common::WriteFileAtomically(path, text));
  common::ChildOptions child;
  child.argv = options_.rank_command;
  for (const std::string& argument :
       {std::string("--assignment"), path, std::string("--rank"), absl::StrCat(rank.rank),
        std::string("--status-fd"), absl::StrCat(common::kStatusFd)}) {
    child.argv.push_back(argument);
  }
  child.status_pipe = true;
  child.on_status_line = [this, &rank](std::string_view line) { OnStatusLine(rank, line); };
  child.on_output_line = [this, &rank](std::string_view line) {
    if (options_.on_output_line) options_.on_output_line(rank.rank, line);
  };
  child.on_exit = options_.on_change;
  {
    absl::MutexLock lock(&rank.mutex);
    rank.status.set_rank(rank.rank);
    rank.status.set_phase(kPhaseStart);
    rank.moved_at = options_.clock->SteadyNow();
  }
  D2G_ASSIGN_OR_RETURN(rank.process, common::ChildProcess::Start(std::move(child)));
  ++counts_.started;
  common::LogInfo("started a rank", {{"job", launch.assignment.job()},
                                     {"generation", launch.assignment.generation()},
                                     {"rank", rank.rank},
                                     {"pid", rank.process->pid()}});
  return absl::OkStatus();
}

void RankGroup::OnStatusLine(Rank& rank, std::string_view line) {
  if (line.size() > kMaxStatusLineBytes) return;
  const auto report = ParseRankReport(line);
  if (!report.ok()) {
    common::LogWarn("ignored a rank's status line",
                    {{"rank", rank.rank}, {"error", report.status()}});
    return;
  }
  bool wake = false;
  {
    absl::MutexLock lock(&rank.mutex);
    if (report->rendezvous) {
      rank.rendezvous = *report->rendezvous;
      wake = true;
    }
    if ((report->phase && *report->phase != rank.status.phase()) ||
        (report->step && *report->step != rank.status.step()) ||
        (report->progress && *report->progress != rank.progress)) {
      rank.moved_at = options_.clock->SteadyNow();
    }
    if (report->progress) rank.progress = *report->progress;
    if (report->phase) rank.status.set_phase(*report->phase);
    if (report->step) rank.status.set_step(*report->step);
    for (const auto& [name, value] : report->metrics) {
      (*rank.status.mutable_metrics())[name] = value;
    }
  }
  if (wake && options_.on_change) options_.on_change();
}

void RankGroup::RequestLeave() {
  if (leaving_ || state_ != State::kRunning) return;
  leaving_ = true;
  if (running() > 0 && AllLoad()) {
    common::LogInfo("killing ranks that still load", {{"ranks", running()}});
    counts_.stopped += running();
    state_ = State::kLeft;
    KillAll();
    return;
  }
  leave_deadline_ = std::min(leave_deadline_, options_.clock->SteadyNow() + options_.leave_timeout);
  for (const auto& rank : ranks_) {
    if (rank->process != nullptr && !rank->ended) rank->process->Signal(SIGTERM);
  }
}

bool RankGroup::AllLoad() const {
  return std::all_of(ranks_.begin(), ranks_.end(), [](const auto& rank) {
    if (rank->process == nullptr) return true;
    absl::MutexLock lock(&rank->mutex);
    return !rank->ended &&
           (rank->status.phase() == kPhaseStart || rank->status.phase() == kPhaseLoad);
  });
}

void RankGroup::Kill(std::string_view reason) {
  if (state_ == State::kRunning) Break({std::string(reason)});
}

RankGroup::State RankGroup::Poll() {
  if (state_ != State::kRunning) return state_;
  StartRanks();
  for (const auto& rank : ranks_) {
    if (rank->process == nullptr || rank->ended) continue;
    LookAtExit(*rank);
    if (state_ == State::kRunning && !rank->ended && !leaving_) LookForHang(*rank);
    if (state_ != State::kRunning) return state_;
  }
  const int remaining = running();
  const absl::Duration now = options_.clock->SteadyNow();
  if (peer_lost_ && (remaining == 0 || now >= cause_deadline_)) {
    Break(*std::move(peer_lost_));
    return state_;
  }
  const bool some_left =
      std::any_of(ranks_.begin(), ranks_.end(), [](const auto& rank) { return rank->left; });
  // Ranks that never started count as gone once the group is leaving.
  const bool none_waits = leaving_ || some_left || ranks_.empty();
  if (remaining == 0 && none_waits) {
    state_ = State::kLeft;
    return state_;
  }
  if (some_left) leave_deadline_ = std::min(leave_deadline_, now + options_.leave_timeout);
  if (now >= leave_deadline_) {
    Break({absl::StrCat(remaining, " of ", ranks_.size(), " ranks did not leave within ",
                        absl::FormatDuration(options_.leave_timeout))});
  }
  return state_;
}

void RankGroup::LookAtExit(Rank& rank) {
  const auto exit = rank.process->exit_status();
  if (!exit) return;
  rank.ended = true;
  if (!exit->signalled && (exit->value == 0 || exit->value == common::kExitStopped)) {
    rank.left = true;
    ++(exit->value == 0 ? counts_.finished : counts_.stopped);
    common::LogInfo("a rank left", {{"rank", rank.rank}, {"exit", exit->ToString()}});
    return;
  }
  ++counts_.died;
  Cause cause = CauseOf(rank, *exit);
  if (cause.failure != GangHeartbeatRequest::FAILURE_PEER_LOST &&
      cause.failure != GangHeartbeatRequest::FAILURE_RANK0_UNREACHABLE) {
    Break(std::move(cause));
  } else if (!peer_lost_) {
    peer_lost_ = std::move(cause);
    cause_deadline_ = options_.clock->SteadyNow() + options_.cause_wait;
  }
}

RankGroup::Cause RankGroup::CauseOf(const Rank& rank, const common::ExitStatus& exit) const {
  Cause cause;
  const std::vector<std::string> lines = rank.process->LastOutputLines();
  const std::string who = absl::StrCat("rank ", rank.rank);
  if (const auto words = OwnWords(lines)) {
    // Most say themselves which rank they are.
    cause.error = absl::StrCat(absl::StartsWith(*words, who + " ") ? "" : who + ": ", *words, " (",
                               exit.ToString(), ")");
  } else {
    cause.error = absl::StrCat(who, " died with ", exit.ToString(), "; ", LastWords(lines));
  }
  absl::MutexLock lock(&rank.mutex);
  const bool started = rank.status.phase() != kPhaseStart;
  if (!exit.signalled && exit.value == common::kExitBadInput) {
    cause.failure = GangHeartbeatRequest::FAILURE_BAD_INPUT;
  } else if (!exit.signalled && exit.value == kExitPeerLost) {
    // The first thing that a rank does is to reach rank 0.
    cause.failure = started ? GangHeartbeatRequest::FAILURE_PEER_LOST
                            : GangHeartbeatRequest::FAILURE_RANK0_UNREACHABLE;
  } else if (!started) {
    cause.failure = GangHeartbeatRequest::FAILURE_NOT_STARTED;
  } else if (!exit.signalled && exit.value == kExitNotFinite) {
    cause.failure = GangHeartbeatRequest::FAILURE_NOT_FINITE;
    cause.step = rank.status.step() + 1;
  }
  return cause;
}

void RankGroup::LookForHang(Rank& rank) {
  std::string phase;
  int64_t step = 0;
  absl::Duration still;
  {
    absl::MutexLock lock(&rank.mutex);
    phase = rank.status.phase();
    step = rank.status.step();
    still = options_.clock->SteadyNow() - rank.moved_at;
  }
  if (MayLast(phase) || still < options_.hang_timeout) return;
  ++counts_.hung;
  Break({absl::StrCat("rank ", rank.rank, " hung: phase ", phase, ", step ", step, ", no move for ",
                      absl::FormatDuration(absl::Trunc(still, absl::Milliseconds(1))), " (limit ",
                      absl::FormatDuration(options_.hang_timeout), ")"),
         phase == kPhaseStart ? GangHeartbeatRequest::FAILURE_NOT_STARTED
                              : GangHeartbeatRequest::FAILURE_UNSPECIFIED});
}

void RankGroup::Break(Cause cause) {
  common::LogWarn("a generation broke", {{"job", launch_.assignment.job()},
                                         {"generation", launch_.assignment.generation()},
                                         {"error", cause.error}});
  state_ = State::kBroken;
  cause.error = common::ValidUtf8(cause.error, common::kMaxFailureBytes);
  cause_ = std::move(cause);
  KillAll();
}

void RankGroup::KillAll() {
  for (const auto& rank : ranks_) {
    if (rank->process != nullptr) rank->process->Signal(SIGKILL);
  }
  for (const auto& rank : ranks_) {
    if (rank->process != nullptr && !rank->process->WaitForExit(kKillWait)) {
      common::LogError("a rank does not die", {{"rank", rank->rank}});
    }
    rank->ended = true;
  }
}

}  // namespace d2g::gang

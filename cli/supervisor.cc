#include "cli/supervisor.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cli/exit_code.h"
#include "cli/format.h"
#include "services/common/address.h"
#include "services/common/status_macros.h"

namespace d2g::cli {
namespace {

// How often port files are looked for, and the longest wait for a signal.
constexpr absl::Duration kPollInterval = absl::Milliseconds(20);
constexpr absl::Duration kIdleWait = absl::Seconds(5);
// Lines of a log that go into the error of a member that could not start.
constexpr int kTailLines = 5;
constexpr char kLoopback[] = "127.0.0.1";
constexpr common::BackoffOptions kRestartBackoff = {.initial = absl::Milliseconds(250),
                                                    .max = absl::Seconds(10)};
// A member that ran this long is started again as quickly as the first time.
constexpr absl::Duration kStableAfter = absl::Seconds(30);

sigset_t SupervisorSignals() {
  sigset_t set;
  sigemptyset(&set);
  for (int signal : {SIGCHLD, SIGTERM, SIGINT, SIGHUP}) sigaddset(&set, signal);
  return set;
}

// Waits for one of the supervisor's signals; 0 when none came in time.
int WaitForSignal(absl::Duration timeout) {
  const sigset_t set = SupervisorSignals();
  const timespec wait = absl::ToTimespec(std::max(timeout, absl::ZeroDuration()));
  const int signal = sigtimedwait(&set, nullptr, &wait);
  return signal > 0 ? signal : 0;
}

bool IsStop(int signal) { return signal != 0 && signal != SIGCHLD; }

}  // namespace

void BlockSupervisorSignals() {
  const sigset_t set = SupervisorSignals();
  sigprocmask(SIG_BLOCK, &set, nullptr);
  // SIGCHLD's default action would not stop it from being waited for, an ignored one would.
  ::signal(SIGCHLD, SIG_DFL);
}

Supervisor::Supervisor(SupervisorOptions options, std::vector<MemberSpec> members,
                       common::Clock* clock)
    : options_(std::move(options)), clock_(clock) {
  for (MemberSpec& spec : members) {
    stages_ = std::max(stages_, spec.stage + 1);
    const int port = spec.port;
    members_.push_back(
        std::make_unique<Member>(Member{.spec = std::move(spec),
                                        .ports = {.grpc = port},
                                        .backoff = common::Backoff(kRestartBackoff)}));
  }
}

Supervisor::~Supervisor() { Stop(); }

std::string Supervisor::GrpcAddress(const std::string& name) const {
  for (const auto& member : members_) {
    if (member->spec.name == name) return absl::StrCat(kLoopback, ":", member->ports.grpc);
  }
  return "";
}

std::string Supervisor::LogPath(const Member& member) const {
  return absl::StrCat(options_.data_dir, "/logs/", member.spec.name, ".log");
}

std::string Supervisor::PortFilePath(const Member& member) const {
  return absl::StrCat(options_.data_dir, "/run/", member.spec.name, ".ports.json");
}

absl::Status Supervisor::Start() {
  // What a member leaves behind at its death comes to us and not to a PID 1 that may never reap.
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  // One that a crash left names processes that are gone.
  unlink(ClusterFilePath(options_.data_dir).c_str());
  std::error_code error;
  for (const char* folder : {"/logs", "/run"}) {
    std::filesystem::create_directories(options_.data_dir + folder, error);
    if (error) {
      return absl::InvalidArgumentError(
          absl::StrCat(options_.data_dir, folder, ": cannot be made: ", error.message()));
    }
  }
  for (int stage = 0; stage < stages_; ++stage) {
    if (const absl::Status status = StartStage(stage); !status.ok()) {
      Stop();
      return status;
    }
  }
  SaveClusterFile();
  return absl::OkStatus();
}

void Supervisor::TakeOldPorts(Member& member) const {
  const absl::StatusOr<common::Ports> old = common::ReadPortFile(PortFilePath(member));
  if (!old.ok()) return;
  const auto take = [](int port, int* wanted) {
    if (*wanted != 0 || port == 0) return;
    if (common::ExplainListenFailure(absl::StrCat(kLoopback, ":", port)).ok()) *wanted = port;
  };
  take(old->grpc, &member.ports.grpc);
  take(old->admin, &member.ports.admin);
}

absl::Status Supervisor::StartStage(int stage) {
  std::vector<Member*> waiting;
  for (const auto& member : members_) {
    if (member->spec.stage != stage) continue;
    TakeOldPorts(*member);
    D2G_RETURN_IF_ERROR(StartMember(*member));
    waiting.push_back(member.get());
  }
  const absl::Duration deadline = clock_->SteadyNow() + options_.start_timeout;
  while (!waiting.empty()) {
    for (Member* member : waiting) {
      D2G_RETURN_IF_ERROR(LookForPorts(*member));
      const std::optional<common::ExitStatus> end = Poll(member->pid);
      if (!end.has_value()) continue;
      member->pid = 0;
      const std::string tail = TailOf(LogPath(*member), kTailLines);
      const std::string message =
          absl::StrCat(member->spec.name, " ended while starting (", end->ToString(),
                       "); the end of ", LogPath(*member), ":\n", tail);
      return end->Exited(kExitBadInput) ? absl::InvalidArgumentError(message)
                                        : absl::AbortedError(message);
    }
    waiting.erase(std::remove_if(waiting.begin(), waiting.end(),
                                 [](const Member* member) { return member->listening; }),
                  waiting.end());
    if (waiting.empty()) break;
    if (clock_->SteadyNow() > deadline) {
      return absl::AbortedError(absl::StrCat(waiting.front()->spec.name, " is not up after ",
                                             DurationText(options_.start_timeout), "; see ",
                                             LogPath(*waiting.front())));
    }
    if (IsStop(WaitForSignal(kPollInterval))) return absl::CancelledError("stopped while starting");
  }
  return absl::OkStatus();
}

absl::Status Supervisor::StartMember(Member& member) {
  const std::string port_file = PortFilePath(member);
  unlink(port_file.c_str());
  member.listening = false;
  const Command command{.argv = member.spec.argv(member.ports, port_file, *this),
                        .log_path = LogPath(member)};
  D2G_ASSIGN_OR_RETURN(member.pid, Spawn(command));
  member.started = clock_->SteadyNow();
  return absl::OkStatus();
}

absl::Status Supervisor::LookForPorts(Member& member) {
  if (member.listening) return absl::OkStatus();
  const absl::StatusOr<common::Ports> ports = common::ReadPortFile(PortFilePath(member));
  if (absl::IsNotFound(ports.status())) return absl::OkStatus();
  D2G_RETURN_IF_ERROR(ports.status());
  if (ports->admin == 0 || (member.spec.serves_grpc && ports->grpc == 0)) {
    return absl::InternalError(absl::StrCat(PortFilePath(member), ": a port is missing"));
  }
  member.ports = *ports;
  member.listening = true;
  return absl::OkStatus();
}

absl::Duration Supervisor::NextDelay(Member& member, absl::Duration ran) {
  if (ran >= kStableAfter) member.backoff.Reset();
  return member.backoff.Next();
}

int Supervisor::Run() {
  for (;;) {
    ReapAndPlan();
    const absl::Duration wait = StartDue();
    const int signal = WaitForSignal(std::min(wait, kIdleWait));
    if (IsStop(signal)) return signal;
  }
}

void Supervisor::ReapAndPlan() {
  bool changed = false;
  for (const auto& member : members_) {
    if (member->pid == 0) continue;
    const std::optional<common::ExitStatus> end = Poll(member->pid);
    if (!end.has_value()) continue;
    const absl::Duration now = clock_->SteadyNow();
    // Somebody told it to stop, and it saved its work: no failure to be patient with.
    const bool drained = end->Exited(kExitStopped);
    const absl::Duration delay = NextDelay(*member, drained ? kStableAfter : now - member->started);
    member->pid = 0;
    member->start_at = now + delay;
    changed = true;
    options_.report(absl::StrCat(member->spec.name, drained ? " was drained (" : " ended (",
                                 end->ToString(), "); starting it again in ", DurationText(delay),
                                 " (log: ", LogPath(*member), ")"));
  }
  ReapOrphans();
  if (changed) SaveClusterFile();
}

void Supervisor::ReapOrphans() {
  const auto is_member = [this](pid_t pid) {
    return std::any_of(members_.begin(), members_.end(),
                       [pid](const auto& member) { return member->pid == pid; });
  };
  siginfo_t ended = {};
  while (waitid(P_ALL, 0, &ended, WEXITED | WNOHANG | WNOWAIT) == 0 && ended.si_pid != 0) {
    // One that ended just now is for the next look at the members.
    if (is_member(ended.si_pid)) return;
    waitpid(ended.si_pid, nullptr, WNOHANG);
    ended = {};
  }
}

absl::Duration Supervisor::StartDue() {
  absl::Duration wait = absl::InfiniteDuration();
  bool changed = false;
  for (const auto& member : members_) {
    if (member->pid != 0) continue;
    const absl::Duration now = clock_->SteadyNow();
    if (now < member->start_at) {
      wait = std::min(wait, member->start_at - now);
      continue;
    }
    ++member->restarts;
    changed = true;
    if (const absl::Status status = StartMember(*member); !status.ok()) {
      const absl::Duration delay = NextDelay(*member, absl::ZeroDuration());
      member->start_at = now + delay;
      wait = std::min(wait, delay);
      options_.report(absl::StrCat(member->spec.name, ": ", std::string(status.message())));
    }
  }
  if (changed) SaveClusterFile();
  return wait;
}

void Supervisor::Stop() {
  for (int stage = stages_ - 1; stage >= 0; --stage) StopStage(stage);
  unlink(ClusterFilePath(options_.data_dir).c_str());
}

void Supervisor::StopStage(int stage) {
  std::vector<Member*> running;
  for (const auto& member : members_) {
    if (member->spec.stage != stage || member->pid == 0) continue;
    kill(member->pid, SIGTERM);
    running.push_back(member.get());
  }
  const absl::Duration begin = clock_->SteadyNow();
  while (!running.empty()) {
    for (Member* member : running) {
      if (Poll(member->pid).has_value()) {
        member->pid = 0;
      } else if (clock_->SteadyNow() - begin > member->spec.grace) {
        kill(member->pid, SIGKILL);
      }
    }
    running.erase(std::remove_if(running.begin(), running.end(),
                                 [](const Member* member) { return member->pid == 0; }),
                  running.end());
    if (!running.empty()) WaitForSignal(kPollInterval);
  }
}

ClusterFile Supervisor::Describe() const {
  ClusterFile cluster{.pid = getpid(), .data_dir = options_.data_dir};
  for (const auto& member : members_) {
    ClusterMember entry{.name = member->spec.name,
                        .pid = member->pid,
                        .admin = absl::StrCat(kLoopback, ":", member->ports.admin),
                        .log = LogPath(*member),
                        .restarts = member->restarts};
    if (member->spec.serves_grpc) entry.grpc = absl::StrCat(kLoopback, ":", member->ports.grpc);
    if (cluster.coordinator.empty()) cluster.coordinator = entry.grpc;
    cluster.processes.push_back(std::move(entry));
  }
  return cluster;
}

void Supervisor::SaveClusterFile() {
  if (const absl::Status status = WriteClusterFile(Describe()); !status.ok()) {
    options_.report(std::string(status.message()));
  }
}

}  // namespace d2g::cli

// d2g watch: follows a job until it ends.
#include "cli/watch.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "cli/command.h"
#include "cli/exit_code.h"
#include "cli/format.h"
#include "cli/job_json.h"
#include "cli/parent.h"
#include "cli/progress.h"
#include "services/common/clock.h"
#include "services/common/file_io.h"
#include "services/common/retry.h"
#include "services/common/status_macros.h"

namespace d2g::cli {
namespace {

using coordinator::v1::Job;

constexpr int kDefaultColumns = 100;

// Prints a job's progress on stdout.
class Screen {
 public:
  Screen() : terminal_(isatty(STDOUT_FILENO) == 1) {}

  void Show(const Job& job) {
    if (!terminal_) {
      for (const std::string& line : plain_.Update(job, common::RealClock::Get()->SteadyNow())) {
        std::printf("%s\n", line.c_str());
      }
      std::fflush(stdout);
      return;
    }
    std::string out;
    // Back to the first line of the last drawing, then each line cleared as it is written.
    if (drawn_ > 0) absl::StrAppend(&out, "\x1b[", drawn_, "A");
    const std::vector<std::string> lines = ProgressLines(job, Columns() - 1);
    for (const std::string& line : lines) absl::StrAppend(&out, line, "\x1b[K\n");
    absl::StrAppend(&out, "\x1b[J");
    drawn_ = lines.size();
    std::fwrite(out.data(), 1, out.size(), stdout);
    std::fflush(stdout);
  }

  // A line that stays, below the drawing.
  void Note(const std::string& line) {
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
    drawn_ = 0;
  }

 private:
  static int Columns() {
    winsize size = {};
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return kDefaultColumns;
    return size.ws_col;
  }

  const bool terminal_;
  PlainProgress plain_;
  size_t drawn_ = 0;
};

// What Ctrl-C says; written by the signal's handler.
std::string farewell;

void SayFarewell(int signal) {
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, farewell.data(), farewell.size());
  ::signal(signal, SIG_DFL);
  raise(signal);
}

// From now on Ctrl-C tells that it ends the watching, not the job.
void ExplainInterrupt(const std::string& job) {
  farewell = absl::StrCat("\nd2g: the job goes on; d2g watch ", job, " follows it again\n");
  // A shell lets its background commands ignore it; so it stays.
  if (::signal(SIGINT, SayFarewell) == SIG_IGN) ::signal(SIGINT, SIG_IGN);
}

}  // namespace

absl::StatusOr<int> WatchUntilEnd(CoordinatorLink& link, const std::string& name,
                                  const WatchOptions& options) {
  ExplainInterrupt(name);
  Screen screen;
  Job last;
  absl::Status state_file_status;
  const common::Clock* const clock = common::RealClock::Get();
  std::optional<absl::Duration> lost_at;
  const auto seen = [&](const Job& job) {
    if (lost_at.has_value()) {
      screen.Note(absl::StrCat("the coordinator is back after ",
                               DurationText(clock->SteadyNow() - *lost_at)));
      lost_at.reset();
    }
    last = job;
    screen.Show(job);
    if (!options.state_file.empty() && state_file_status.ok()) {
      state_file_status = common::WriteFileAtomically(options.state_file, ToJson(job));
      if (!state_file_status.ok()) PrintError(std::string(state_file_status.message()));
    }
  };
  for (;;) {
    const absl::Status status = link.WatchJob(name, seen);
    if (IsFinal(last.state())) break;
    if (status.ok()) {
      // Ended between two looks: the final state is one call away.
      D2G_ASSIGN_OR_RETURN(const Job job, link.GetJob(name));
      seen(job);
      continue;
    }
    // Before the first answer a wrong address is the likelier reason.
    if (!common::IsRetryable(status) || last.name().empty()) return status;
    if (!lost_at.has_value()) {
      lost_at = clock->SteadyNow() - CoordinatorLink::kPatience;
      screen.Note("the coordinator is away; reconnecting");
    }
    if (clock->SteadyNow() - *lost_at > options.patience) return status;
    link.FindAgain();
  }
  return last.state() == Job::STATE_SUCCEEDED ? kExitOk : kExitJobFailed;
}

void AddWatch(CLI::App& app, Action* action) {
  struct Flags {
    CoordinatorFlags coordinator;
    WatchOptions options;
    std::string job;
    bool exit_with_parent = false;
    // Who started d2g.
    pid_t parent = getppid();
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* watch = app.add_subcommand("watch", "Follow a job until it ends");
  watch->add_option("JOB", flags->job, "The job's name, as printed by submit")->required();
  AddCoordinatorFlags(watch, &flags->coordinator);
  common::AddDurationFlag(watch, "--patience", &flags->options.patience,
                          "How long a coordinator that went away is waited for");
  watch->add_option("--state-file", flags->options.state_file,
                    "Keep the job as last seen in this file, as JSON");
  watch->add_flag("--exit-with-parent", flags->exit_with_parent,
                  "Stop when the process that started d2g ends");
  watch->callback([flags, action] {
    *action = [flags]() -> absl::StatusOr<int> {
      if (flags->exit_with_parent && !TieToParent(flags->parent)) return kExitFailure;
      D2G_ASSIGN_OR_RETURN(const auto link, CoordinatorLink::Open(flags->coordinator));
      return WatchUntilEnd(*link, JobName(flags->job), flags->options);
    };
  });
}

}  // namespace d2g::cli

// d2g-rank: one rank of a training gang. Started by d2g-trainer, never by hand.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <cstdio>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "services/common/file_io.h"
#include "services/common/log.h"
#include "services/common/program.h"
#include "services/common/signals.h"
#include "services/common/status_macros.h"
#include "worker/gang/rank_channel.h"
#include "worker/rank/rank.h"
#include "worker/rank/rank_failure.h"

namespace d2g::rank {
namespace {

struct Flags {
  std::string assignment;
  int rank = -1;
  int status_fd = -1;
};

absl::StatusOr<gang::RankLaunch> ReadLaunch(const Flags& flags) {
  D2G_ASSIGN_OR_RETURN(const std::string text, common::ReadFile(flags.assignment));
  D2G_ASSIGN_OR_RETURN(gang::RankLaunch launch, gang::ParseRankLaunch(text));
  const auto& assignment = launch.assignment;
  if (flags.rank < assignment.first_rank() ||
      flags.rank >= assignment.first_rank() + assignment.rank_count() ||
      flags.rank >= assignment.world_size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--rank is ", flags.rank, "; this agent has ", assignment.rank_count(),
                     " ranks from ", assignment.first_rank(), " on, of ", assignment.world_size()));
  }
  return launch;
}

int Main(int argc, char** argv) {
  common::BlockStopSignals();
  Flags flags;
  CLI::App app("One rank of a d2g training gang. Started by d2g-trainer.", gang::kRankProgram);
  app.add_option("--assignment", flags.assignment, "File with the rank's launch, as JSON")
      ->required();
  app.add_option("--rank", flags.rank, "Which rank")->required();
  app.add_option("--status-fd", flags.status_fd, "Descriptor for status lines to the agent");
  if (const auto code = common::ParseCommandLine(&app, argc, argv)) return *code;

  const absl::StatusOr<gang::RankLaunch> launch = ReadLaunch(flags);
  if (!launch.ok()) {
    // An agent of another version, say: nothing that the job asks for.
    common::ReportFailure(gang::kRankProgram, launch.status());
    return common::kExitFailure;
  }
  common::LogOptions log;
  log.format = launch->log_format;
  log.component = gang::kRankProgram;
  if (const absl::Status status = common::InitLog(log); !status.ok()) {
    common::ReportFailure(gang::kRankProgram, status);
    return common::kExitFailure;
  }

  std::atomic<bool> stop{false};
  std::atomic<bool> ended{false};
  std::thread signals([&] {
    while (!ended.load()) {
      if (const auto signal = common::WaitForStopSignal(absl::Milliseconds(200))) {
        common::LogInfo("told to stop: leaving after a checkpoint", {{"signal", *signal}});
        stop.store(true);
      }
    }
  });
  gang::RankStatusWriter status(flags.status_fd);
  const absl::StatusOr<TrainingEnd> end = RunRank(*launch, flags.rank, &status, stop);
  ended.store(true);
  signals.join();
  if (!end.ok()) {
    common::ReportFailure(gang::kRankProgram, end.status());
    return RankExitCode(end.status());
  }
  return *end == TrainingEnd::kStopped ? common::kExitStopped : common::kExitOk;
}

}  // namespace
}  // namespace d2g::rank

int main(int argc, char** argv) {
  const int code = d2g::rank::Main(argc, argv);
  // LibTorch's static destructors take a tenth of a second and free nothing that matters.
  std::fflush(nullptr);
  _exit(code);
}

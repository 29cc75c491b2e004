// d2g down: stops the local cluster of a data folder.
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "cli/cluster_file.h"
#include "cli/command.h"
#include "cli/data_dir_lock.h"
#include "cli/exit_code.h"
#include "cli/format.h"
#include "cli/local_cluster.h"
#include "services/common/clock.h"
#include "services/common/status_macros.h"

namespace d2g::cli {
namespace {

constexpr absl::Duration kPollInterval = absl::Milliseconds(50);

int NothingRuns(const std::string& data_dir) {
  std::printf("no cluster is running on %s\n", data_dir.c_str());
  return kExitOk;
}

absl::StatusOr<int> Down(const std::string& data_dir) {
  if (access(data_dir.c_str(), F_OK) != 0) return NothingRuns(data_dir);
  if (const auto lock = DataDirLock::Take(data_dir); lock.ok()) {
    // A cluster file that is there nevertheless was left by a crash.
    unlink(ClusterFilePath(data_dir).c_str());
    return NothingRuns(data_dir);
  }
  const common::Clock& clock = *common::RealClock::Get();
  const absl::Duration deadline = clock.SteadyNow() + kLocalStopTimeout;
  int told = 0;
  for (;;) {
    const auto cluster = ReadClusterFile(data_dir);
    if (cluster.ok() && cluster->pid != told) {
      if (kill(cluster->pid, SIGTERM) != 0 && errno != ESRCH) {
        return absl::PermissionDeniedError(
            absl::StrCat("cannot stop process ", cluster->pid, ": ", std::strerror(errno)));
      }
      told = cluster->pid;
    }
    if (DataDirLock::Take(data_dir).ok()) {
      std::printf("the cluster on %s is stopped\n", data_dir.c_str());
      return kExitOk;
    }
    if (clock.SteadyNow() > deadline) {
      return absl::InternalError(absl::StrCat(
          "the cluster on ", data_dir, " is still running ", DurationText(kLocalStopTimeout),
          " after it was told to stop; see ", data_dir, "/logs"));
    }
    absl::SleepFor(kPollInterval);
  }
}

}  // namespace

void AddDown(CLI::App& app, Action* action) {
  auto data_dir = std::make_shared<std::string>(DefaultDataDir());
  CLI::App* down = app.add_subcommand("down", "Stop the local cluster of a data folder");
  AddDataDirFlag(down, data_dir.get(), "The folder given to d2g up");
  down->callback([data_dir, action] { *action = [data_dir] { return Down(*data_dir); }; });
}

}  // namespace d2g::cli

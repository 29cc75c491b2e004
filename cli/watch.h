// Following a job until it ends; `d2g watch` and `d2g submit --watch`.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cli/coordinator_link.h"

namespace d2g::cli {

struct WatchOptions {
  // How long a lost coordinator is waited for.
  absl::Duration patience = absl::Minutes(10);
  // The job as last seen is kept here as JSON, replaced as a whole; empty: nowhere.
  std::string state_file;
};

// Shows the job's progress on stdout (bars on a terminal, plain lines elsewhere) until it ends.
// Reconnects while the coordinator is away. Returns the exit code: kExitOk when it succeeded, else
// kExitJobFailed.
absl::StatusOr<int> WatchUntilEnd(CoordinatorLink& link, const std::string& job,
                                  const WatchOptions& options);

}  // namespace d2g::cli

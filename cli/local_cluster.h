// Which processes make up the local cluster, and with which flags.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "cli/supervisor.h"
#include "services/common/path_policy.h"

namespace d2g::cli {

// Limits of `d2g up`; a larger cluster belongs on more machines.
inline constexpr int kMaxLocalShards = 64;
inline constexpr int kMaxLocalWorkers = 64;
inline constexpr int kMaxLocalSlots = 64;

// What programs that have work to save are told to take at most after SIGTERM. SIGKILL comes a
// margin later, so that each can still end by its own rules.
inline constexpr absl::Duration kLocalLeaveTimeout =
    absl::Minutes(2);  // a checkpoint of every rank
inline constexpr absl::Duration kLocalWorkerGrace = absl::Seconds(20);
inline constexpr absl::Duration kLocalKillMargin = absl::Seconds(10);
// Stopping all stages, one after another, takes less.
inline constexpr absl::Duration kLocalStopTimeout = absl::Minutes(3);

struct LocalClusterOptions {
  // Folder of the binaries.
  std::string bin_dir;
  // Everything that the cluster keeps.
  std::string data_dir;
  // Store shards; frozen by the first start on a data folder.
  int shards = 2;
  // Simulation workers; they also evaluate and export.
  int workers = 2;
  // Ranks that the trainer's agent runs at once.
  int slots = 2;
  // Threads a worker or rank on a CPU.
  int threads = 1;
  // The coordinator's port; 0: any free one.
  int port = 0;
  // "cpu", "cuda:0" or "auto".
  std::string device = "auto";
  // A lease without progress lapses after this.
  absl::Duration lease_duration = absl::Seconds(60);
  // Where jobs may read and write. What the members keep in data_dir is kept out of by itself.
  common::PathPolicy paths;
};

// The members, the coordinator first.
std::vector<MemberSpec> LocalClusterMembers(const LocalClusterOptions& options);

// INVALID_ARGUMENT names the first program of a member that is not there or cannot be run.
absl::Status CheckPrograms(const std::vector<MemberSpec>& members);

}  // namespace d2g::cli

// d2g up: a local cluster on loopback, from the real binaries.
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "cli/cluster_file.h"
#include "cli/command.h"
#include "cli/data_dir_lock.h"
#include "cli/exit_code.h"
#include "cli/local_cluster.h"
#include "cli/own_folder.h"
#include "cli/parent.h"
#include "cli/supervisor.h"
#include "services/common/address.h"
#include "services/common/clock.h"
#include "services/common/file_io.h"
#include "services/common/path_policy.h"
#include "services/common/status_macros.h"

namespace d2g::cli {
namespace {

struct UpOptions {
  LocalClusterOptions cluster;
  bool exit_with_parent = false;
  // Who started d2g.
  pid_t parent = getppid();
};

// A data folder that holds more shards than are started would miss triples without a word.
absl::Status CheckShards(const LocalClusterOptions& options) {
  int held = 0;
  std::error_code error;
  // Not a range-for, whose ++ throws.
  std::filesystem::directory_iterator entry(options.data_dir, error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    int shard;
    if (absl::StartsWith(name, "store-") && absl::SimpleAtoi(name.substr(6), &shard)) {
      held = std::max(held, shard + 1);
    }
  }
  // Fewer are held where the first start was interrupted; the coordinator, which freezes the
  // number, refuses another than its own.
  if (held <= options.shards) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--shards ", options.shards, ": ", options.data_dir, " holds ", held,
                   " shards, and their number is frozen; start it with --shards ", held,
                   " or choose another --data-dir"));
}

// The coordinator would find out too, but only after folders were made.
absl::Status CheckPort(int port) {
  if (port == 0) return absl::OkStatus();
  const absl::Status status = common::ExplainListenFailure(absl::StrCat("127.0.0.1:", port));
  if (status.ok()) return status;
  return absl::InvalidArgumentError(absl::StrCat("--port ", port, ": ", status.message(),
                                                 "; choose another, or 0 for any free one"));
}

// Empty when it is a device, else what is wrong with it.
std::string CheckDevice(const std::string& device) {
  absl::string_view rest = device;
  int number = 0;
  if (rest == "cpu" || rest == "auto" || rest == "cuda") return "";
  if (absl::ConsumePrefix(&rest, "cuda:") && absl::SimpleAtoi(rest, &number) && number >= 0) {
    return "";
  }
  return absl::StrCat("'", device, "' is none of cpu, cuda, cuda:N and auto");
}

absl::StatusOr<int> Up(UpOptions options) {
  LocalClusterOptions& cluster = options.cluster;
  if (options.exit_with_parent && !TieToParent(options.parent)) return kExitFailure;
  BlockSupervisorSignals();
  D2G_ASSIGN_OR_RETURN(cluster.data_dir, common::AbsolutePath(cluster.data_dir));
  if (cluster.bin_dir.empty()) cluster.bin_dir = OwnFolder();
  // What can be told now is told before the data folder is made.
  D2G_RETURN_IF_ERROR(CheckPrograms(LocalClusterMembers(cluster)));
  D2G_RETURN_IF_ERROR(CheckPort(cluster.port));
  D2G_ASSIGN_OR_RETURN(const DataDirLock lock, DataDirLock::Take(cluster.data_dir));
  D2G_RETURN_IF_ERROR(CheckShards(cluster));

  Supervisor supervisor(
      {.data_dir = cluster.data_dir, .report = [](const std::string& line) { PrintError(line); }},
      LocalClusterMembers(cluster), common::RealClock::Get());
  if (const absl::Status status = supervisor.Start(); !status.ok()) {
    if (absl::IsCancelled(status)) return kExitOk;
    return status;
  }
  std::printf(
      "cluster is up: coordinator %s, %d shards, %d workers, 1 trainer with %d slots\n"
      "data and logs: %s\n"
      "stop it with Ctrl-C, or d2g down --data-dir %s\n",
      supervisor.Describe().coordinator.c_str(), cluster.shards, cluster.workers, cluster.slots,
      cluster.data_dir.c_str(), cluster.data_dir.c_str());
  std::fflush(stdout);
  supervisor.Run();
  std::printf("stopping the cluster\n");
  std::fflush(stdout);
  supervisor.Stop();
  return kExitOk;
}

}  // namespace

void AddUp(CLI::App& app, Action* action) {
  auto options = std::make_shared<UpOptions>();
  LocalClusterOptions& cluster = options->cluster;
  cluster.data_dir = DefaultDataDir();
  CLI::App* up = app.add_subcommand("up", "Start a local cluster and keep it running");
  AddDataDirFlag(up, &cluster.data_dir, "Folder for everything that it keeps");
  up->add_option("--shards", cluster.shards, "Store shards")
      ->capture_default_str()
      ->check(CLI::Range(1, kMaxLocalShards));
  up->add_option("--workers", cluster.workers, "Simulation workers")
      ->capture_default_str()
      ->check(CLI::Range(0, kMaxLocalWorkers));
  up->add_option("--slots", cluster.slots, "Training ranks at once")
      ->capture_default_str()
      ->check(CLI::Range(1, kMaxLocalSlots));
  up->add_option("--threads", cluster.threads, "Threads a worker or rank on a CPU")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  up->add_option("--port", cluster.port, "The coordinator's port; 0: any free one")
      ->capture_default_str()
      ->check(CLI::Range(0, 65535));
  up->add_option("--device", cluster.device,
                 "cpu, cuda, cuda:N or auto; ranks take the GPUs in order, whatever N is")
      ->capture_default_str()
      ->check(CheckDevice);
  common::AddDurationFlag(up, "--lease-duration", &cluster.lease_duration,
                          "A lease without progress lapses after this");
  common::AddPathFlags(up, &cluster.paths);
  up->add_option("--bin-dir", cluster.bin_dir, "Folder of the binaries; default: d2g's own");
  up->add_flag("--exit-with-parent", options->exit_with_parent,
               "Stop when the process that started d2g ends");
  up->callback([options, action] { *action = [options] { return Up(*options); }; });
}

}  // namespace d2g::cli

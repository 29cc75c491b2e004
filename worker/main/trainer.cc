// d2g-trainer: a node's agent in the training gang. Starts one rank process per GPU or CPU share.
#include <CLI/CLI.hpp>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <thread>

#include "services/common/admin_server.h"
#include "services/common/identity.h"
#include "services/common/log.h"
#include "services/common/path_policy.h"
#include "services/common/port_file.h"
#include "services/common/program.h"
#include "services/common/signals.h"
#include "services/common/status_macros.h"
#include "services/common/version.h"
#include "worker/gang/gang_agent.h"
#include "worker/gang/rank_output.h"
#include "worker/gang/scratch_folder.h"

namespace d2g::gang {
namespace {

constexpr char kProgram[] = "d2g-trainer";

struct Flags {
  common::ServerFlags server;
  std::string coordinator;
  std::string node = common::NodeName();
  std::string advertise_host = "127.0.0.1";
  int slots = 1;
  std::string device = "cpu";
  int threads = 1;
  std::string rank_binary;
  common::PathPolicy paths;
  absl::Duration hang_timeout = RankGroupOptions().hang_timeout;
  absl::Duration leave_timeout = RankGroupOptions().leave_timeout;
};

// d2g-rank beside this program.
std::string SiblingRank() {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? "d2g-rank" : (self.parent_path() / "d2g-rank").string();
}

// "cpu" or "cuda". "auto" is what this build and machine can do: without Torch here, the driver's
// folder tells. The number of "cuda:N" is dropped: ranks take the GPUs in order.
std::string ResolveDevice(const std::string& name) {
  if (name != "auto") return name == "cpu" ? "cpu" : "cuda";
#ifdef D2G_CUDA
  std::error_code ignored;
  const std::filesystem::directory_iterator gpus("/proc/driver/nvidia/gpus", ignored);
  if (gpus != std::filesystem::directory_iterator()) return "cuda";
#endif
  return "cpu";
}

// Returns the exit code.
absl::StatusOr<int> Serve(const Flags& flags) {
  D2G_ASSIGN_OR_RETURN(const std::unique_ptr<ScratchFolder> scratch,
                       ScratchFolder::Make("d2g-trainer-"));
  common::Metrics metrics(kProgram);
  coordinator::CoordinatorClient client(flags.coordinator);

  GangAgentOptions options;
  options.agent = common::RandomId("agent");
  options.node = flags.node;
  options.build = common::Version();
  options.slots = flags.slots;
  options.device_name = flags.device;
  options.launch.coordinator = flags.coordinator;
  options.launch.advertise_host = flags.advertise_host;
  options.launch.device = flags.device;
  options.launch.threads = flags.threads;
  options.launch.agent = options.agent;
  options.launch.node = flags.node;
  options.launch.paths = flags.paths;
  options.launch.log_format = flags.server.log.format;
  options.ranks.rank_command = {flags.rank_binary};
  options.ranks.work_dir = scratch->path();
  options.ranks.hang_timeout = flags.hang_timeout;
  options.ranks.leave_timeout = flags.leave_timeout;
  options.ranks.on_output_line = [json = flags.server.log.format == "json"](int rank,
                                                                            std::string_view line) {
    WriteRankLine(rank, line, /*prefix=*/!json);
  };
  GangAgent agent(std::move(options), &client, &metrics);
  D2G_ASSIGN_OR_RETURN(const auto admin,
                       common::AdminServer::Start(flags.server.admin_address, &metrics,
                                                  /*readiness=*/nullptr, flags.server.insecure));
  D2G_RETURN_IF_ERROR(common::WritePortFile(flags.server.port_file, {.admin = admin->port()}));
  common::LogInfo(
      "trainer agent is up",
      {{"coordinator", flags.coordinator}, {"slots", flags.slots}, {"admin_port", admin->port()}});
  bool left_work = false;
  std::thread running([&agent, &left_work] { left_work = agent.Run(); });
  common::WaitForStopSignal();
  admin->SetStopping();
  agent.Drain();
  running.join();
  common::LogInfo("trainer agent has drained", {{"left_work", left_work}});
  return left_work ? common::kExitStopped : common::kExitOk;
}

int Main(int argc, char** argv) {
  common::BlockStopSignals();
  Flags flags;
  CLI::App app("Runs a node's part of the training gang", kProgram);
  common::AddServerFlags(&app, &flags.server, /*serves_grpc=*/false);
  common::AddPeerFlag(&app, "--coordinator", &flags.coordinator, "the coordinator")->required();
  app.add_option("--node", flags.node, "name of this node, as failures are counted")
      ->capture_default_str();
  app.add_option("--slots", flags.slots, "ranks that run here at most: one per GPU or CPU share")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app.add_option("--device", flags.device, "cpu, cuda or auto")
      ->check([](const std::string& name) {
        const bool known = name == "cpu" || name == "auto" || name.rfind("cuda", 0) == 0;
        return known ? "" : "'" + name + "' is none of cpu, cuda and auto";
      })
      ->capture_default_str();
  app.add_option("--threads", flags.threads, "threads of a rank on a CPU")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--rank-binary", flags.rank_binary, "program of a rank")
      ->default_str("d2g-rank beside this program");
  app.add_option("--advertise-host", flags.advertise_host,
                 "host that ranks elsewhere reach rank 0 at")
      ->capture_default_str();
  common::AddPathFlags(&app, &flags.paths);
  common::AddDurationFlag(&app, "--hang-timeout", &flags.hang_timeout,
                          "a rank that does not move for this long is killed");
  common::AddDurationFlag(&app, "--leave-timeout", &flags.leave_timeout,
                          "ranks told to checkpoint and leave have this long");
  if (const auto code = common::ParseCommandLine(&app, argc, argv)) return *code;
  if (flags.rank_binary.empty()) flags.rank_binary = SiblingRank();
  flags.device = ResolveDevice(flags.device);
  flags.server.log.component = kProgram;
  if (absl::Status log = common::InitLog(flags.server.log); !log.ok()) {
    return common::ReportFailure(kProgram, log);
  }
  const absl::StatusOr<int> exit_code = Serve(flags);
  return exit_code.ok() ? *exit_code : common::ReportFailure(kProgram, exit_code.status());
}

}  // namespace
}  // namespace d2g::gang

int main(int argc, char** argv) { return d2g::gang::Main(argc, argv); }

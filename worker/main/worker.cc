// d2g-worker: leases simulate, evaluate and export tasks from the coordinator and runs them.
#include <ATen/Parallel.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "model/kernels/cuda_graph.h"
#include "model/torch_process.h"
#include "services/common/admin_server.h"
#include "services/common/identity.h"
#include "services/common/log.h"
#include "services/common/path_policy.h"
#include "services/common/port_file.h"
#include "services/common/program.h"
#include "services/common/signals.h"
#include "services/common/status_macros.h"
#include "services/common/version.h"
#include "worker/evaluate/evaluate.h"
#include "worker/export/export.h"
#include "worker/lease/lease_loop.h"
#include "worker/simulate/device.h"
#include "worker/simulate/simulate_runner.h"

namespace d2g {
namespace {

constexpr char kProgram[] = "d2g-worker";
// How soon a lost device is noticed.
constexpr absl::Duration kDevicePoll = absl::Seconds(1);

struct Flags {
  common::ServerFlags server;
  std::string coordinator;
  std::string node = common::NodeName();
  std::vector<std::string> kinds = {"simulate", "evaluate", "export"};
  std::string device = "auto";
  int threads = 1;
  bool no_cuda_graphs = false;
  common::PathPolicy paths;
  absl::Duration grace = absl::Seconds(20);
};

// Runners of the kinds asked for.
std::vector<std::unique_ptr<lease::TaskRunner>> MakeRunners(
    const Flags& flags, at::Device device, const coordinator::v1::WorkerInfo& worker,
    coordinator::CoordinatorClient* client, common::Metrics* metrics) {
  const auto wanted = [&](const char* kind) {
    return std::find(flags.kinds.begin(), flags.kinds.end(), kind) != flags.kinds.end();
  };
  std::vector<std::unique_ptr<lease::TaskRunner>> runners;
  if (wanted("simulate")) {
    simulate::SimulateRunnerOptions options;
    options.producer.set_worker(worker.id());
    options.producer.set_node(worker.node());
    options.producer.set_device(worker.device());
    options.producer.set_build(worker.build());
    options.device = device;
    options.paths = flags.paths;
    runners.push_back(std::make_unique<simulate::SimulateRunner>(options, client, metrics));
  }
  if (wanted("evaluate")) {
    runners.push_back(
        std::make_unique<evaluate::EvaluateRunner>(client, device.str(), flags.paths));
  }
  if (wanted("export")) runners.push_back(std::make_unique<exporter::ExportRunner>(flags.paths));
  return runners;
}

// Returns the exit code.
absl::StatusOr<int> Serve(const Flags& flags) {
  model::SetUpTorchProcess(flags.threads);
  at::set_num_interop_threads(1);
  if (flags.no_cuda_graphs) model::SetCudaGraphs(false);
  D2G_ASSIGN_OR_RETURN(const at::Device device, simulate::ParseDevice(flags.device));
  common::Metrics metrics(kProgram);
  coordinator::CoordinatorClient client(flags.coordinator);

  lease::LeaseLoopOptions options;
  options.worker.set_id(common::RandomId("worker"));
  options.worker.set_node(flags.node);
  options.worker.set_device(device.str());
  options.worker.set_build(common::Version());
  lease::LeaseLoop loop(options, &client,
                        MakeRunners(flags, device, options.worker, &client, &metrics), &metrics);
  D2G_ASSIGN_OR_RETURN(const auto admin,
                       common::AdminServer::Start(
                           flags.server.admin_address, &metrics, [&loop] { return loop.device(); },
                           flags.server.insecure));
  D2G_RETURN_IF_ERROR(common::WritePortFile(flags.server.port_file, {.admin = admin->port()}));
  common::LogInfo("worker is up", {{"coordinator", flags.coordinator},
                                   {"worker", options.worker.id()},
                                   {"device", device.str()},
                                   {"admin_port", admin->port()}});
  loop.Start();
  while (!common::WaitForStopSignal(kDevicePoll)) {
    if (const absl::Status lost = loop.device(); !lost.ok()) {
      common::LogError("the device is lost: ending, to be started anew", {{"error", lost}});
      // Unloading would only meet the same error.
      std::_Exit(common::ExitCodeOf(lost));
    }
  }
  admin->SetStopping();
  common::LogInfo("stopping: giving back what is not done");
  switch (loop.Stop(flags.grace)) {
    case lease::LoopEnd::kDone:
      return common::kExitOk;
    case lease::LoopEnd::kLeftWork:
      return common::kExitStopped;
    case lease::LoopEnd::kStuck:
      break;
  }
  std::_Exit(common::kExitStopped);
}

int Main(int argc, char** argv) {
  common::BlockStopSignals();
  Flags flags;
  CLI::App app("Simulates triples, evaluates and exports students", kProgram);
  common::AddServerFlags(&app, &flags.server, /*serves_grpc=*/false);
  common::AddPeerFlag(&app, "--coordinator", &flags.coordinator, "the coordinator")->required();
  app.add_option("--node", flags.node, "name of this node, as failures are counted")
      ->capture_default_str();
  app.add_option("--kinds", flags.kinds, "tasks to run: simulate, evaluate, export")
      ->delimiter(',')
      ->check(CLI::IsMember({"simulate", "evaluate", "export"}))
      ->capture_default_str();
  app.add_option("--device", flags.device, "cpu, cuda:N or auto")->capture_default_str();
  app.add_option("--threads", flags.threads, "threads for computing on a CPU")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_flag("--no-cuda-graphs", flags.no_cuda_graphs,
               "on a GPU, launch every kernel of a small batch anew instead of replaying them");
  common::AddPathFlags(&app, &flags.paths);
  common::AddDurationFlag(&app, "--grace", &flags.grace,
                          "after SIGTERM, time to flush triples and give the task back");
  if (const auto code = common::ParseCommandLine(&app, argc, argv)) return *code;
  flags.server.log.component = kProgram;
  if (absl::Status log = common::InitLog(flags.server.log); !log.ok()) {
    return common::ReportFailure(kProgram, log);
  }
  const absl::StatusOr<int> exit_code = Serve(flags);
  return exit_code.ok() ? *exit_code : common::ReportFailure(kProgram, exit_code.status());
}

}  // namespace
}  // namespace d2g

int main(int argc, char** argv) { return d2g::Main(argc, argv); }

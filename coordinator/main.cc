// d2g-coordinator: jobs, datasets, leases and gangs.
#include <cstdlib>
#include <utility>

#include "CLI/CLI.hpp"
#include "coordinator/server.h"
#include "services/common/log.h"
#include "services/common/path_policy.h"
#include "services/common/port_file.h"
#include "services/common/program.h"
#include "services/common/signals.h"

int main(int argc, char** argv) {
  using namespace d2g;  // NOLINT: a program, not a header
  constexpr char kProgram[] = "d2g-coordinator";
  constexpr absl::Duration kStopGrace = absl::Seconds(2);
  constexpr absl::Duration kStatusPoll = absl::Seconds(1);
  common::BlockStopSignals();

  CLI::App app("Coordinates distillation: jobs, datasets, leases and gangs.", kProgram);
  common::ServerFlags flags;
  coordinator::CoordinatorServerOptions options;
  common::AddServerFlags(&app, &flags);
  app.add_option("--data-dir", options.data_dir, "folder for the coordinator's rows")->required();
  app.add_option("--shards", options.shards, "store shards of this cluster; fixed at first start")
      ->capture_default_str();
  common::AddPathFlags(&app, &options.paths);
  common::AddDurationFlag(&app, "--lease-duration", &options.lease_duration,
                          "a task without progress for this long is leased anew");
  common::AddDurationFlag(&app, "--gang-settle", &options.gang.settle,
                          "how long a gang waits for more ranks than its minimum");
  common::AddDurationFlag(&app, "--agent-timeout", &options.gang.agent_timeout,
                          "an agent that is silent for this long is lost");
  common::AddDurationFlag(&app, "--gang-start-timeout", &options.gang.start_timeout,
                          "an agent whose ranks have not started by then is left out for a while");
  if (const auto code = common::ParseCommandLine(&app, argc, argv)) return *code;
  flags.log.component = kProgram;
  if (const auto status = common::InitLog(flags.log); !status.ok()) {
    return common::ReportFailure(kProgram, status);
  }

  options.listen = flags.listen;
  options.admin_address = flags.admin_address;
  options.insecure = flags.insecure;
  auto server = coordinator::CoordinatorServer::Start(options);
  if (!server.ok()) return common::ReportFailure(kProgram, server.status());
  const common::Ports ports{(*server)->port(), (*server)->admin_port()};
  if (const auto status = common::WritePortFile(flags.port_file, ports); !status.ok()) {
    return common::ReportFailure(kProgram, status);
  }

  // Until told to stop, or until rows cannot be written: then a new start must read what is there.
  while (!common::WaitForStopSignal(kStatusPoll).has_value()) {
    if (const auto status = (*server)->status(); !status.ok()) {
      common::ReportFailure(kProgram, status);
      // Closing a store that could not be written would write again (and end in one of RocksDB's
      // assertions on a full disk). What was acknowledged is synced.
      std::_Exit(common::kExitFailure);
    }
  }
  common::LogInfo("coordinator stops");
  (*server)->Stop(kStopGrace);
  return common::kExitOk;
}

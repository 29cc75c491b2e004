// d2g-store: one shard of the triple store.
#include <cstdint>
#include <limits>

#include "CLI/CLI.hpp"
#include "services/common/log.h"
#include "services/common/program.h"
#include "services/common/signals.h"
#include "services/store/store_app.h"

namespace {

constexpr char kProgram[] = "d2g-store";
constexpr absl::Duration kStopGrace = absl::Seconds(5);

void AddFlags(CLI::App* app, d2g::store::StoreAppOptions* options) {
  d2g::common::AddServerFlags(app, &options->server);
  app->add_option("--data-dir", options->database.folder, "folder of this shard; made if missing")
      ->required();
  app->add_option("--shard", options->store.shard, "number of this shard, from 0")
      ->required()
      ->check(CLI::Range(0, 65535));
  d2g::common::AddPeerFlag(app, "--coordinator", &options->coordinator,
                           "the coordinator to report to (default: none)");
  app->add_option("--min-free-bytes", options->store.min_free_bytes,
                  "refuse appends below this much free space")
      ->check(CLI::Range(int64_t{0}, std::numeric_limits<int64_t>::max()))
      ->capture_default_str();
  app->add_option("--min-free-share", options->store.min_free_share,
                  "refuse appends below this share of the volume")
      ->check(CLI::Range(0.0, 0.9))
      ->capture_default_str();
  app->add_option("--write-buffer-bytes", options->database.write_buffer_bytes,
                  "memory for triples on their way to a blob file, per dataset")
      ->check(CLI::Range(int64_t{1} << 20, int64_t{4} << 30))
      ->capture_default_str();
}

}  // namespace

int main(int argc, char** argv) {
  d2g::common::BlockStopSignals();
  CLI::App flags("One shard of d2g's triple store.", kProgram);
  d2g::store::StoreAppOptions options;
  AddFlags(&flags, &options);
  if (const auto code = d2g::common::ParseCommandLine(&flags, argc, argv)) return *code;
  options.server.log.component = kProgram;
  auto status = d2g::common::InitLog(options.server.log);
  if (!status.ok()) return d2g::common::ReportFailure(kProgram, status);
  auto app = d2g::store::StoreApp::Start(options);
  if (!app.ok()) return d2g::common::ReportFailure(kProgram, app.status());
  d2g::common::WaitForStopSignal();
  d2g::common::LogInfo("stopping");
  (*app)->Stop(kStopGrace);
  return d2g::common::kExitOk;
}

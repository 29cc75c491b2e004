// The d2g-store process: one shard.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/common/admin_server.h"
#include "services/common/metrics.h"
#include "services/common/program.h"
#include "services/common/rpc_server.h"
#include "services/store/rocksdb_engine.h"
#include "services/store/shard_reporter.h"
#include "services/store/store_metrics.h"
#include "services/store/triple_service.h"
#include "services/store/triple_store.h"

namespace d2g::store {

struct StoreAppOptions {
  common::ServerFlags server;
  RocksDbOptions database;
  TripleStoreOptions store;
  TripleServiceOptions service;
  // host:port; empty runs without one.
  std::string coordinator;
};

// Thread-safe. Everything stops, in order, at destruction.
class StoreApp {
 public:
  // Opens the folder, listens, starts reporting, then writes the port file.
  static absl::StatusOr<std::unique_ptr<StoreApp>> Start(const StoreAppOptions& options);
  ~StoreApp();

  int grpc_port() const { return server_->port(); }
  int admin_port() const { return admin_->port(); }
  const TripleStore& store() const { return *store_; }

  // Ends calls within `grace`, then stops everything.
  void Stop(absl::Duration grace);

 private:
  StoreApp() : metrics_("d2g-store"), store_metrics_(&metrics_) {}

  common::Metrics metrics_;
  StoreMetrics store_metrics_;
  // Each uses those above it.
  std::unique_ptr<TripleStore> store_;
  std::unique_ptr<TripleServiceImpl> service_;
  std::unique_ptr<common::RpcServer> server_;
  std::unique_ptr<ShardReporter> reporter_;
  std::unique_ptr<common::AdminServer> admin_;
};

}  // namespace d2g::store

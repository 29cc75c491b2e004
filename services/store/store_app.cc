#include "services/store/store_app.h"

#include <utility>

#include "services/common/address.h"
#include "services/common/log.h"
#include "services/common/port_file.h"
#include "services/common/status_macros.h"

namespace d2g::store {

absl::StatusOr<std::unique_ptr<StoreApp>> StoreApp::Start(const StoreAppOptions& options) {
  // An address that cannot be used must not leave a trace in the data folder.
  for (const std::string& address : {options.server.listen, options.server.admin_address}) {
    D2G_RETURN_IF_ERROR(common::CheckListenAddress(address, options.server.insecure));
    D2G_RETURN_IF_ERROR(common::ExplainListenFailure(address));
  }
  std::unique_ptr<StoreApp> app(new StoreApp());
  D2G_ASSIGN_OR_RETURN(std::unique_ptr<Engine> engine, OpenRocksDbEngine(options.database));
  TripleStoreOptions store_options = options.store;
  store_options.metrics = &app->store_metrics_;
  D2G_ASSIGN_OR_RETURN(app->store_, TripleStore::Create(std::move(engine), store_options));
  app->service_ =
      std::make_unique<TripleServiceImpl>(app->store_.get(), &app->store_metrics_, options.service);
  common::RpcServerOptions rpc;
  rpc.insecure = options.server.insecure;
  rpc.metrics = &app->metrics_;
  D2G_ASSIGN_OR_RETURN(
      app->server_,
      common::RpcServer::Start(options.server.listen,
                               {common::Serve<v1::TripleService>(app->service_.get())}, rpc));
  D2G_ASSIGN_OR_RETURN(app->admin_, common::AdminServer::Start(
                                        options.server.admin_address, &app->metrics_,
                                        [store = app->store_.get()] { return store->Ready(); },
                                        options.server.insecure));
  const std::string advertised = options.server.advertise_address.empty()
                                     ? app->server_->address()
                                     : options.server.advertise_address;
  if (!options.coordinator.empty()) {
    app->reporter_ = std::make_unique<ShardReporter>(app->store_.get(), &app->store_metrics_,
                                                     options.coordinator, advertised);
  }
  app->store_metrics_.free_bytes.Set(static_cast<double>(app->store_->FreeBytes()));
  app->store_metrics_.datasets.Set(static_cast<double>(app->store_->Stats().size()));
  D2G_RETURN_IF_ERROR(common::WritePortFile(
      options.server.port_file, {.grpc = app->grpc_port(), .admin = app->admin_port()}));
  common::LogInfo("serving", {{"address", advertised},
                              {"admin_port", app->admin_port()},
                              {"shard", app->store_->shard()},
                              {"store_uuid", app->store_->uuid()},
                              {"data_dir", options.database.folder}});
  return app;
}

StoreApp::~StoreApp() { Stop(absl::ZeroDuration()); }

void StoreApp::Stop(absl::Duration grace) {
  if (admin_ != nullptr) admin_->SetStopping();
  reporter_.reset();
  if (server_ != nullptr) server_->Shutdown(grace);
  admin_.reset();
}

}  // namespace d2g::store

#include "services/common/rpc_server.h"

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"
#include "services/common/address.h"
#include "services/common/grpc_library.h"
#include "services/common/rpc_observer.h"
#include "services/common/status_macros.h"

namespace d2g::common {
namespace {

// Clients ping every 20 s (channel.cc); a server that sees pings more often than it allows hangs
// up.
constexpr int kMinPingIntervalMs = 10'000;
constexpr int kKeepAliveMs = 30'000;
constexpr int kKeepAliveTimeoutMs = 10'000;

// The one place where server credentials are chosen.
std::shared_ptr<grpc::ServerCredentials> Credentials() { return grpc::InsecureServerCredentials(); }

}  // namespace

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(
    const std::string& address, const std::vector<ServedService>& services,
    const RpcServerOptions& options) {
  D2G_RETURN_IF_ERROR(CheckListenAddress(address, options.insecure));
  D2G_ASSIGN_OR_RETURN(const HostPort parsed, ParseAddress(address));
  KeepGrpcInitialised();
  grpc::EnableDefaultHealthCheckService(true);
  if (IsLoopback(parsed.host)) {
    static const bool once = (grpc::reflection::InitProtoReflectionServerBuilderPlugin(), true);
    static_cast<void>(once);
  }
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(address, Credentials(), &port);
  // Two processes on one port is a mistake here, never load balancing.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             kMinPingIntervalMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepAliveMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepAliveTimeoutMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.SetMaxSendMessageSize(kMaxMessageBytes);
  std::vector<std::string> names;
  for (const ServedService& served : services) {
    builder.RegisterService(served.service);
    names.push_back(served.name);
  }
  std::unique_ptr<RpcServer> server(new RpcServer());
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> observers;
  D2G_ASSIGN_OR_RETURN(observers.emplace_back(),
                       MakeRpcObserver(options.metrics, &server->calls_, names));
  builder.experimental().SetInterceptorCreators(std::move(observers));
  server->server_ = builder.BuildAndStart();
  if (server->server_ == nullptr || port == 0) {
    D2G_RETURN_IF_ERROR(ExplainListenFailure(address));
    return absl::FailedPreconditionError(absl::StrCat("cannot listen on ", address));
  }
  server->port_ = port;
  server->address_ = FormatAddress(parsed.host, port);
  return server;
}

RpcServer::~RpcServer() { Shutdown(absl::ZeroDuration()); }

void RpcServer::SetServing(bool serving) {
  if (auto* health = server_->GetHealthCheckService()) health->SetServingStatus(serving);
}

void RpcServer::Shutdown(absl::Duration grace) {
  if (server_ == nullptr) return;
  SetServing(false);
  // gRPC's own graceful shutdown also waits for idle connections, and a client that makes no call
  // may take seconds to notice that its connection should go.
  calls_.WaitForNone(grace);
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
}

}  // namespace d2g::common

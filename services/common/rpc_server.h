// Runs gRPC services: the one place that chooses server credentials, limits and keep-alive.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/server.h"
#include "services/common/metrics.h"
#include "services/common/rpc_observer.h"

namespace d2g::common {

// Largest message either way, also set by MakeChannel.
inline constexpr int kMaxMessageBytes = 16 << 20;

// A service to serve, and its full name, by which its methods are counted.
struct ServedService {
  grpc::Service* service;
  std::string name;
};

// Serve<store::v1::TripleService>(&service): the name that belongs to the generated class.
template <class Generated>
ServedService Serve(typename Generated::Service* service) {
  return {service, Generated::service_full_name()};
}

struct RpcServerOptions {
  // Allows listening beyond loopback without TLS.
  bool insecure = false;
  // When set, counts and times calls by method (rpc_observer.h). Must outlive the server.
  Metrics* metrics = nullptr;
};

// Thread-safe. Serves grpc.health.v1 too.
class RpcServer {
 public:
  // Listens on host:port (port 0: any) and serves, with server reflection where that is loopback.
  // The services must outlive the server. Fails naming the address and why: in use, not permitted,
  // beyond loopback.
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(
      const std::string& address, const std::vector<ServedService>& services,
      const RpcServerOptions& options = {});
  // Shuts down without grace if Shutdown was not called.
  ~RpcServer();

  // The port bound, and "host:port" with it.
  int port() const { return port_; }
  const std::string& address() const { return address_; }

  // What the health service answers; true from the start.
  void SetServing(bool serving);

  // Health says not serving; calls in flight have `grace` to end, then all are cancelled. Returns
  // when they have ended (so every reactor must finish when cancelled). Idempotent.
  void Shutdown(absl::Duration grace);

 private:
  RpcServer() = default;

  // Outlives the server.
  CallsInFlight calls_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
  std::string address_;
};

}  // namespace d2g::common

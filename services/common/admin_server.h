// The HTTP port of every process: /metrics, /healthz (the process answers) and /readyz (it can do
// its work, whatever its peers do, and was not told to stop).
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/common/http_server.h"
#include "services/common/metrics.h"

namespace d2g::common {

// Thread-safe.
class AdminServer {
 public:
  // OK means ready; else /readyz answers 503 with the message. Called on a thread of its own.
  using Readiness = std::function<absl::Status()>;

  // Listens on host:port (port 0: any). `metrics` must outlive the server. Fails naming the
  // address; beyond loopback only with `insecure`.
  static absl::StatusOr<std::unique_ptr<AdminServer>> Start(const std::string& address,
                                                            const Metrics* metrics,
                                                            Readiness readiness,
                                                            bool insecure = false);

  // From now on /readyz answers 503. Call it first when the process was told to stop.
  void SetStopping() { stopping_ = true; }

  // The port bound.
  int port() const { return http_->port(); }

 private:
  AdminServer() = default;

  std::atomic<bool> stopping_{false};
  // Last: its threads use the flag.
  std::unique_ptr<HttpServer> http_;
};

}  // namespace d2g::common

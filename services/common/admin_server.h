// The HTTP port of every process: /metrics, /healthz (the process answers) and /readyz (it can
// serve now).
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/common/metrics.h"

namespace d2g::common {

class AdminServer {
 public:
  // OK means ready; else /readyz answers 503 with the message. Called on HTTP threads.
  using Readiness = std::function<absl::Status()>;

  // Listens on host:port (port 0: any). `metrics` must outlive the server. Fails naming the
  // address; beyond loopback only with `insecure`.
  static absl::StatusOr<std::unique_ptr<AdminServer>> Start(const std::string& address,
                                                            const Metrics* metrics,
                                                            Readiness readiness,
                                                            bool insecure = false);
  virtual ~AdminServer() = default;

  // The port bound.
  virtual int port() const = 0;
};

}  // namespace d2g::common

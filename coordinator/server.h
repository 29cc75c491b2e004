// The whole coordinator in one object: what d2g-coordinator runs and what tests start in process.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/state/gang_table.h"
#include "services/common/clock.h"
#include "services/common/path_policy.h"

namespace d2g::coordinator {

struct CoordinatorServerOptions {
  // host:port of gRPC and of HTTP; port 0 takes a free one.
  std::string listen = "127.0.0.1:0";
  std::string admin_address = "127.0.0.1:0";
  // Allows listening beyond loopback without TLS.
  bool insecure = false;
  // Where rows are kept; made if missing.
  std::string data_dir;
  // Shards of the store; frozen at the first start.
  int32_t shards = 1;
  // A task whose progress stands still for this long is given to somebody else.
  absl::Duration lease_duration = absl::Seconds(60);
  GangOptions gang;
  // Where jobs may read and write; data_dir is kept out of by itself.
  common::PathPolicy paths;
  // Null: the machine's. Must outlive the server.
  const common::Clock* clock = nullptr;
};

// Thread-safe.
class CoordinatorServer {
 public:
  // Checks the options, opens the data folder, and serves. Errors name the flag, the folder or the
  // address and why.
  static absl::StatusOr<std::unique_ptr<CoordinatorServer>> Start(
      const CoordinatorServerOptions& options);
  virtual ~CoordinatorServer() = default;

  virtual int port() const = 0;
  virtual int admin_port() const = 0;
  // "host:port" of gRPC.
  virtual const std::string& address() const = 0;
  virtual uint64_t incarnation() const = 0;
  // OK until rows can no longer be written; then the process has to end and start anew.
  virtual absl::Status status() const = 0;
  // Ends streams, lets calls in flight end for `grace`, and stops. Idempotent.
  virtual void Stop(absl::Duration grace) = 0;
};

}  // namespace d2g::coordinator

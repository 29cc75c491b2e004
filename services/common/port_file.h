// How a process started with port 0 tells its supervisor which ports it got.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace d2g::common {

struct Ports {
  // 0: the process serves no gRPC.
  int grpc = 0;
  // HTTP: /metrics, /healthz, /readyz.
  int admin = 0;
};

// Writes {"grpc": PORT, "admin": PORT} so that a reader sees all of it or none. An empty path does
// nothing.
absl::Status WritePortFile(const std::string& path, const Ports& ports);

// NOT_FOUND while the file is not there.
absl::StatusOr<Ports> ReadPortFile(const std::string& path);

}  // namespace d2g::common

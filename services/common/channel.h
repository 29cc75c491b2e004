// Client side of gRPC: the one place that chooses client credentials, limits and keep-alive.
#pragma once

#include <memory>
#include <string>

#include "absl/time/time.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"

namespace d2g::common {

struct ChannelOptions {
  // A connection of its own, so that small calls are not queued behind bulk data.
  bool own_connection = false;
};

// A channel to host:port. Connects lazily, reconnects by itself with jittered back-off, pings an
// idle connection every 20 s, takes messages of up to kMaxMessageBytes. Never null; a bad address
// shows as UNAVAILABLE on calls.
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address,
                                           const ChannelOptions& options = {});

// Every call needs one. An infinite timeout sets none.
void SetDeadline(grpc::ClientContext* context, absl::Duration timeout);

}  // namespace d2g::common

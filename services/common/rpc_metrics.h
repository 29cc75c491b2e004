// Counts and times every call of a server.
#pragma once

#include <memory>

#include "grpcpp/support/server_interceptor.h"
#include "services/common/metrics.h"

namespace d2g::common {

// Families d2g_rpc_handled_total{method,code} and d2g_rpc_seconds{method}; `method` is
// "TripleService/ReadTriples". `metrics` must outlive the server.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeRpcMetrics(
    Metrics* metrics);

}  // namespace d2g::common

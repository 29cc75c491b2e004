// Watches every call of a server: counts what is in flight, and counts and times what ended.
#pragma once

#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/support/server_interceptor.h"
#include "services/common/metrics.h"

namespace d2g::common {

// How many calls a server has in flight. Thread-safe.
class CallsInFlight {
 public:
  void Begin();
  void End();
  // Waits until there are none; false when there still are some after `timeout`.
  bool WaitForNone(absl::Duration timeout);

 private:
  absl::Mutex mutex_;
  int count_ ABSL_GUARDED_BY(mutex_) = 0;
};

// Unless `metrics` is null, adds the families d2g_rpc_handled_total{method,code} and
// d2g_rpc_seconds{method}; `method` is "TripleService/ReadTriples". Both must outlive the server.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeRpcObserver(
    Metrics* metrics, CallsInFlight* calls);

}  // namespace d2g::common

// Watches every call of a server: counts what is in flight, and counts and times what ended.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
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

// Unless `metrics` is null, adds the families d2g_rpc_handled_total{method,code}, for unary methods
// d2g_rpc_seconds{method}, and for streams, which last as long as both sides like,
// d2g_rpc_open_streams{method}. `services` are full names ("d2g.store.v1.TripleService") of
// services that this program has the generated code of; `method` is one of theirs or of the health
// service, as "TripleService/ReadTriples", or "other" for whatever else a caller asks for.
// `metrics` and `calls` must outlive the server. INTERNAL names a service that is not known.
absl::StatusOr<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>>
MakeRpcObserver(Metrics* metrics, CallsInFlight* calls, const std::vector<std::string>& services);

}  // namespace d2g::common

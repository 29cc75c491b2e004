// The life of the gRPC and protobuf libraries within a process.
#pragma once

#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace d2g::common {

inline constexpr absl::Duration kLibraryLogInterval = absl::Seconds(10);

// Lets one thing through every `interval`. Thread-safe.
class Throttle {
 public:
  explicit Throttle(absl::Duration interval) : interval_(interval) {}

  // True once an interval, with how many were held back since the last time. `now` is monotonic.
  bool Pass(absl::Duration now, int64_t* held_back);

 private:
  const absl::Duration interval_;
  absl::Mutex mutex_;
  absl::Duration next_ ABSL_GUARDED_BY(mutex_) = -absl::InfiniteDuration();
  int64_t held_back_ ABSL_GUARDED_BY(mutex_) = 0;
};

// Keeps gRPC initialised until the process ends. Without it gRPC shuts itself down when its last
// channel or server goes, on whichever thread that is, and shutting down races with starting again
// (seen in 1.51: its timers are freed twice). Called by MakeChannel and RpcServer::Start.
//
// Also lets channels look at their sockets every 200 ms: one that lost its server fails calls at
// once until it is connected again, so no call waits on its socket, and gRPC's own interval of 5 s
// would let each step of reconnecting take that long.
//
// And sends what protobuf has to say (a string that is not UTF-8, say) through log.h, at most one
// line every kLibraryLogInterval: whoever sends us bytes must not fill our disk.
void KeepGrpcInitialised();

}  // namespace d2g::common

// Keeps the coordinator told what a shard holds, and does what it answers: full lists of seals when
// it asks for them, dropping deleted datasets. The shard is the truth; a coordinator that is down
// for any time loses nothing, it is told again.
#pragma once

#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "d2g/coordinator/v1/shard_service.grpc.pb.h"
#include "services/store/triple_store.h"

namespace d2g::store {

// Thread-safe. Reports from construction to destruction, on a thread of its own.
class ShardReporter {
 public:
  // `store` and `metrics` must outlive the reporter. `advertised` is where peers reach this shard.
  ShardReporter(TripleStore* store, StoreMetrics* metrics, const std::string& coordinator,
                const std::string& advertised);
  ~ShardReporter();

  // The last heartbeat's outcome; UNAVAILABLE before the first answer.
  absl::Status LastOutcome() const;

 private:
  void Run();
  // One heartbeat and what it asks for; sets when to send the next.
  absl::Status Report(absl::Duration* interval);
  absl::Status ReportSeals(const std::string& dataset);
  // Refuses answers from a coordinator with a lower incarnation: an older one that still runs.
  absl::Status CheckIncarnation(const grpc::ClientContext& context);

  TripleStore* const store_;
  StoreMetrics* const metrics_;
  common::v1::ShardAddress address_;
  const std::string coordinator_;
  const std::unique_ptr<coordinator::v1::ShardService::Stub> stub_;
  // Belongs to the reporting thread.
  int64_t incarnation_ = 0;
  absl::Notification stop_;
  mutable absl::Mutex mutex_;
  absl::Status outcome_ ABSL_GUARDED_BY(mutex_);
  // Last: uses all of the above.
  std::thread thread_;
};

}  // namespace d2g::store

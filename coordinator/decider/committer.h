// Makes decisions durable before anybody sees them.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "coordinator/rows/row_changes.h"
#include "prometheus/counter.h"
#include "prometheus/histogram.h"

namespace d2g::coordinator {

// Where a decider hands its changes. Enqueue is called under the decider's lock and must not block,
// so that changes are queued in the order of the decisions.
class RowSink {
 public:
  virtual ~RowSink() = default;
  // Takes the changes of one decision; returns a number that grows with every call.
  virtual int64_t Enqueue(RowChanges changes) = 0;
};

// One thread writes; all changes that wait share one synced batch. A failed write is final: every
// later wait gets the same error, and `on_failure` is called once so that the process can end.
// Thread-safe.
class Committer final : public RowSink {
 public:
  struct Hooks {
    // Writes groups of changes durably. Called on the committer's thread.
    std::function<absl::Status(const std::vector<RowChanges>&)> write;
    // Called once, on the committer's thread, without a lock.
    std::function<void(const absl::Status&)> on_failure;
    // May be null.
    prometheus::Histogram* seconds = nullptr;
    prometheus::Counter* rows = nullptr;
  };
  explicit Committer(Hooks hooks);
  // Writes what is queued, then stops.
  ~Committer() override;

  int64_t Enqueue(RowChanges changes) override;
  // Calls done(status) once everything up to `sequence` is durable: at once, or from the
  // committer's thread.
  void WhenDurable(int64_t sequence, std::function<void(const absl::Status&)> done);
  // The same, blocking.
  absl::Status WaitDurable(int64_t sequence);
  // OK until a write fails.
  absl::Status status() const;

 private:
  using Waiter = std::pair<int64_t, std::function<void(const absl::Status&)>>;

  void Run();

  const Hooks hooks_;
  mutable absl::Mutex mutex_;
  std::vector<RowChanges> queue_ ABSL_GUARDED_BY(mutex_);
  std::vector<Waiter> waiters_ ABSL_GUARDED_BY(mutex_);
  int64_t enqueued_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t durable_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace d2g::coordinator

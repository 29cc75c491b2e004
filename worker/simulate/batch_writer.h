// Makes triples of solved batches and writes them while the next batch is computed.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "d2g/common/v1/recipe.pb.h"
#include "d2g/store/v1/triple_service.pb.h"
#include "worker/simulate/simulate_metrics.h"
#include "worker/simulate/solve_batch.h"

namespace d2g::simulate {

// Where triples go.
struct TripleSink {
  // Blocks until the triples are on their way. Called on the writer's thread, one call at a time.
  std::function<absl::Status(std::vector<store::v1::Triple>)> write;
  // Makes a `write` under way, and any later one, return soon: at the latest after the pause before
  // its next attempt.
  std::function<void()> cancel;
};

// One batch at a time, on a thread of its own: fetches what the device has solved, checks and
// encodes it, and gives it to the sink. Its methods are for one thread, but for Release.
class BatchWriter {
 public:
  // A batch that the device has solved, and the time that it took.
  struct Solved {
    int64_t count = 0;
    absl::Duration elapsed;
  };

  // `metrics` is not owned and outlives the writer, as does what the sink refers to.
  BatchWriter(common::v1::DatasetRecipe recipe, TripleSink sink, SimulateMetrics* metrics);
  // Cancels the sink if it has not taken everything yet.
  ~BatchWriter();
  BatchWriter(const BatchWriter&) = delete;
  BatchWriter& operator=(const BatchWriter&) = delete;

  // Returns once the sink has taken the batch before and this one is in hand. The first error of a
  // batch (Fetch's, MakeTriples', the sink's) is returned by every call from then on.
  absl::Status Write(SolvedBatch batch);

  // Returns once the sink has taken every batch, with the first error.
  absl::Status Flush();

  // From any thread, for a caller that is in a hurry: from now on a Write that would have to wait,
  // or does, returns CANCELLED and takes nothing; a Flush waits for `patience` and then cancels the
  // sink: DEADLINE_EXCEEDED.
  void Release(absl::Duration patience);

  // The first error so far.
  absl::Status status();

  // Those since the last call, in the order of their writing.
  std::vector<Solved> TakeSolved();

 private:
  void Run();
  // Called without the lock: it waits for the device and for the store.
  absl::Status WriteNow(SolvedBatch& batch);
  bool idle() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return !in_hand_; }

  const common::v1::DatasetRecipe recipe_;
  const TripleSink sink_;
  SimulateMetrics* const metrics_;
  absl::Mutex mutex_;
  // Until the sink has taken it.
  std::optional<SolvedBatch> in_hand_ ABSL_GUARDED_BY(mutex_);
  std::vector<Solved> solved_ ABSL_GUARDED_BY(mutex_);
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Duration> released_ ABSL_GUARDED_BY(mutex_);
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace d2g::simulate

// Reads a rank's batches in plan order, ahead of training.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "d2g/common/v1/recipe.pb.h"
#include "d2g/common/v1/train_spec.pb.h"
#include "services/dataset/epoch_plan.h"
#include "worker/rank/rank_batch.h"
#include "worker/rank/training_data.h"

namespace d2g::rank {

struct BatchReaderOptions {
  // This rank's place in the gang.
  int world_size = 1;
  int rank = 0;
  // Normal; the batch over all ranks and the seed are read.
  common::v1::TrainSpec train;
  common::v1::DatasetRecipe recipe;
  // First batch to read, and how many.
  DataCursor start;
  int64_t batches = 0;
  // Equal for two prompts (positions in the list) exactly when their texts are.
  std::function<int64_t(int64_t prompt)> prompt_class;
  // Read-ahead stops at this many bytes of latents (but never below two batches): enough to train
  // through the restart of a shard.
  int64_t max_bytes = int64_t{512} << 20;
  // Calls in flight to each shard.
  int calls_per_shard = 4;
  // How long one read is retried before the run fails.
  absl::Duration give_up_after = absl::Minutes(10);
};

// Threads of its own plan batches, fetch their triples (as many a call as the store takes, a few
// calls in flight per shard), check both checksums, make the noise and keep finished batches in
// order. A shard that is away, or that lost its volume and does not have a triple again yet, is
// retried; a triple that is damaged gets weight 0 and is reported in the batch.
// The next epoch's snapshot is asked for only when at most kSnapshotLead batches are left
// unconsumed, so that it holds what was sealed meanwhile.
//
// Next is for one thread; the rest is thread-safe. `data` must outlive the reader.
class BatchReader {
 public:
  BatchReader(BatchReaderOptions options, TrainingData* data);
  // Stops.
  ~BatchReader();
  BatchReader(const BatchReader&) = delete;
  BatchReader& operator=(const BatchReader&) = delete;

  // The next batch, waiting for it. CANCELLED after Stop, OUT_OF_RANGE after the last batch,
  // FAILED_PRECONDITION when a snapshot has less than one global batch, else why reading failed.
  absl::StatusOr<RankBatch> Next();
  // Whether Next would return at once.
  bool IsReady() const;
  // Waits until IsReady, at most `timeout`.
  bool WaitUntilReady(absl::Duration timeout);
  // Makes waiting calls return CANCELLED soon.
  void Stop();

  // Time that Next and WaitUntilReady have waited, in all.
  absl::Duration wait_time() const;

  static constexpr int64_t kSnapshotLead = 4;

 private:
  struct PendingBatch {
    RankBatch batch;
    // Reads not yet done.
    int64_t reads_left = 0;
  };
  // Some rows of a batch that live on one shard.
  struct Read {
    PendingBatch* batch = nullptr;
    std::vector<int64_t> rows;
  };

  void PlanBatches();
  absl::Status PlanEpoch(int64_t epoch);
  std::unique_ptr<PendingBatch> StartBatch(const DataCursor& cursor,
                                           std::vector<std::deque<Read>>* reads) const;
  void ReadFromShard(int shard);
  absl::Status Fetch(int shard, const Read& read);
  absl::StatusOr<std::vector<store::v1::Triple>> ReadWithRetry(int shard,
                                                               const std::vector<int64_t>& indices);
  void Skip(PendingBatch* batch, int64_t row, const absl::Status& why);
  bool HasOutcome() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Fail(const absl::Status& status);

  const BatchReaderOptions options_;
  TrainingData* const data_;
  const int64_t latent_elements_;
  const int64_t indices_per_read_;
  const int64_t max_pending_;
  absl::Notification stop_;
  // Only the planning thread touches it.
  std::optional<dataset::EpochPlan> epoch_plan_;

  mutable absl::Mutex mutex_;
  // In plan order; the front is the next to hand out.
  std::deque<std::unique_ptr<PendingBatch>> pending_ ABSL_GUARDED_BY(mutex_);
  // By shard, in plan order.
  std::vector<std::deque<Read>> reads_ ABSL_GUARDED_BY(mutex_);
  bool all_planned_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
  absl::Duration wait_time_ ABSL_GUARDED_BY(mutex_) = absl::ZeroDuration();

  std::vector<std::thread> threads_;
};

}  // namespace d2g::rank

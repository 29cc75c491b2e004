// Writes and commits checkpoints beside training.
#pragma once

#include <functional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "d2g/coordinator/v1/training_service.pb.h"
#include "worker/trainer/checkpoint.h"

namespace d2g::trainer {

// Rank 0's. One thread writes the folder, commits it with the coordinator, trying again while that
// is away, and removes the folders that the coordinator let go. Training goes on meanwhile and
// hears of a failure at the next call. Thread-safe.
class CheckpointWriter {
 public:
  // One attempt of CommitCheckpoint. UNAVAILABLE and DEADLINE_EXCEEDED are tried again.
  using Commit = std::function<absl::StatusOr<coordinator::v1::CommitCheckpointResponse>(
      const coordinator::v1::CommitCheckpointRequest&)>;

  // `checkpoints_dir` is output_dir/checkpoints of `job`.
  CheckpointWriter(std::string job, std::string checkpoints_dir, Commit commit);
  // Gives up what is not yet committed.
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  // Starts a checkpoint. Returns the first failure of those before; FAILED_PRECONDITION when one is
  // still under way.
  absl::Status Start(CheckpointState state, CheckpointTensors tensors);
  // Waits until nothing is under way, at most `timeout`; then the first failure, if any.
  // DEADLINE_EXCEEDED when a commit still waits for the coordinator.
  absl::Status Wait(absl::Duration timeout);
  // Whether a checkpoint is being written or waits to be committed.
  bool busy() const;
  // The first failure so far; does not wait.
  absl::Status status() const;

 private:
  void Run();
  absl::Status WriteAndCommit(const CheckpointState& state, const CheckpointTensors& tensors);
  bool IsIdle() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return !has_work_; }
  bool HasWorkOrStop() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return has_work_ || stopping_; }

  const std::string job_;
  const std::string checkpoints_dir_;
  const Commit commit_;
  absl::Notification stop_;

  mutable absl::Mutex mutex_;
  bool has_work_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  // Set while has_work_.
  CheckpointState state_ ABSL_GUARDED_BY(mutex_);
  CheckpointTensors tensors_ ABSL_GUARDED_BY(mutex_);

  std::thread thread_;
};

}  // namespace d2g::trainer

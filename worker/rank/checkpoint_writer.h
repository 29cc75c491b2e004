// Writes and commits checkpoints beside training.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "d2g/coordinator/v1/training_service.pb.h"
#include "worker/rank/checkpoint.h"

namespace d2g::rank {

// Rank 0's. One thread writes the folder, commits it with the coordinator, trying again while that
// is away, and removes the folders that the coordinator let go. Training goes on meanwhile and
// hears of a failure at the next call. Thread-safe.
class CheckpointWriter {
 public:
  // What becomes of a checkpoint: the disk's share of the time, then the coordinator's.
  enum class Stage { kIdle, kWriting, kCommitting };

  // One attempt of CommitCheckpoint. UNAVAILABLE and DEADLINE_EXCEEDED are tried again.
  using Commit = std::function<absl::StatusOr<coordinator::v1::CommitCheckpointResponse>(
      const coordinator::v1::CommitCheckpointRequest&)>;

  // WriteCheckpoint, or a test's stand-in.
  using Write = std::function<absl::StatusOr<WrittenCheckpoint>(
      const std::string& checkpoints_dir, const CheckpointState& state,
      const CheckpointTensors& tensors, const std::function<void()>& progress)>;

  // `checkpoints_dir` is output_dir/checkpoints of `job`.
  CheckpointWriter(std::string job, std::string checkpoints_dir, Commit commit,
                   Write write = WriteCheckpoint);
  // Finishes the write that is under way and tries to commit it once: what is then not committed
  // is given up.
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  // Starts a checkpoint. Returns the first failure of those before; FAILED_PRECONDITION when one is
  // still under way.
  absl::Status Start(CheckpointState state, CheckpointTensors tensors);
  // Waits until nothing is under way, at most `timeout`; then the first failure, if any.
  // DEADLINE_EXCEEDED says whether the checkpoint is still being written or waits for the
  // coordinator.
  absl::Status Wait(absl::Duration timeout);
  Stage stage() const;
  // Counts the pieces written since the start: it stands still while a disk hangs.
  int64_t progress() const { return progress_.load(); }
  // Step of the last checkpoint committed here; absent before the first.
  std::optional<int64_t> committed_step() const;
  // The first failure so far; does not wait.
  absl::Status status() const;

 private:
  void Run();
  absl::Status WriteAndCommit(const CheckpointState& state, const CheckpointTensors& tensors);
  bool IsIdle() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return stage_ == Stage::kIdle; }
  bool HasWorkOrStop() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return !IsIdle() || stopping_; }

  const std::string job_;
  const std::string checkpoints_dir_;
  const Commit commit_;
  const Write write_;
  absl::Notification stop_;
  std::atomic<int64_t> progress_{0};

  mutable absl::Mutex mutex_;
  Stage stage_ ABSL_GUARDED_BY(mutex_) = Stage::kIdle;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  std::optional<int64_t> committed_step_ ABSL_GUARDED_BY(mutex_);
  // From Start until the thread takes them.
  CheckpointState state_ ABSL_GUARDED_BY(mutex_);
  CheckpointTensors tensors_ ABSL_GUARDED_BY(mutex_);

  std::thread thread_;
};

}  // namespace d2g::rank

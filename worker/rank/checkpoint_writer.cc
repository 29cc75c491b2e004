#include "worker/rank/checkpoint_writer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/log.h"
#include "services/common/retry.h"
#include "services/common/status_macros.h"

namespace d2g::rank {

CheckpointWriter::CheckpointWriter(std::string job, std::string checkpoints_dir, Commit commit,
                                   Write write)
    : job_(std::move(job)),
      checkpoints_dir_(std::move(checkpoints_dir)),
      commit_(std::move(commit)),
      write_(std::move(write)),
      thread_([this] { Run(); }) {}

CheckpointWriter::~CheckpointWriter() {
  stop_.Notify();
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

absl::Status CheckpointWriter::Start(CheckpointState state, CheckpointTensors tensors) {
  absl::MutexLock lock(&mutex_);
  D2G_RETURN_IF_ERROR(status_);
  if (!IsIdle()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the checkpoint of step ", state.step, " came while another is under way"));
  }
  state_ = std::move(state);
  tensors_ = std::move(tensors);
  stage_ = Stage::kWriting;
  return absl::OkStatus();
}

absl::Status CheckpointWriter::Wait(absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  if (!mutex_.AwaitWithTimeout(absl::Condition(this, &CheckpointWriter::IsIdle), timeout)) {
    return absl::DeadlineExceededError(
        stage_ == Stage::kWriting
            ? "the last checkpoint is still being written"
            : "the last checkpoint is written, but the coordinator has not committed it");
  }
  return status_;
}

CheckpointWriter::Stage CheckpointWriter::stage() const {
  absl::MutexLock lock(&mutex_);
  return stage_;
}

std::optional<int64_t> CheckpointWriter::committed_step() const {
  absl::MutexLock lock(&mutex_);
  return committed_step_;
}

absl::Status CheckpointWriter::status() const {
  absl::MutexLock lock(&mutex_);
  return status_;
}

void CheckpointWriter::Run() {
  while (true) {
    CheckpointState state;
    CheckpointTensors tensors;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(this, &CheckpointWriter::HasWorkOrStop));
      if (IsIdle()) return;
      state = std::move(state_);
      tensors = std::move(tensors_);
    }
    const absl::Status status = WriteAndCommit(state, tensors);
    absl::MutexLock lock(&mutex_);
    status_.Update(status);
    if (status.ok()) committed_step_ = state.step;
    stage_ = Stage::kIdle;
  }
}

absl::Status CheckpointWriter::WriteAndCommit(const CheckpointState& state,
                                              const CheckpointTensors& tensors) {
  D2G_ASSIGN_OR_RETURN(const WrittenCheckpoint written,
                       write_(checkpoints_dir_, state, tensors, [this] { ++progress_; }));
  {
    absl::MutexLock lock(&mutex_);
    stage_ = Stage::kCommitting;
  }
  coordinator::v1::CommitCheckpointRequest request;
  request.set_job(job_);
  request.set_generation(state.generation);
  request.set_step(state.step);
  request.set_path(written.path);
  request.set_manifest_digest(written.manifest_digest);
  coordinator::v1::CommitCheckpointResponse response;
  bool failed_before = false;
  const auto attempt = [&]() -> absl::Status {
    const absl::StatusOr<coordinator::v1::CommitCheckpointResponse> answer = commit_(request);
    if (answer.ok()) {
      response = *answer;
    } else if (common::IsRetryable(answer.status()) && !failed_before) {
      failed_before = true;
      common::LogWarn("the coordinator does not answer; the checkpoint waits to be committed",
                      {{"step", state.step}, {"error", answer.status()}});
    }
    return answer.status();
  };
  // The first attempt is made even when stopping: the folder is whole, and all that it lacks is one
  // call.
  absl::Status committed = attempt();
  if (common::IsRetryable(committed)) {
    common::RetryOptions retry;
    retry.stop = &stop_;
    committed = common::RetryUntil(absl::InfiniteFuture(), attempt, retry);
  }
  if (!committed.ok()) {
    return common::Annotate(committed,
                            absl::StrCat("committing the checkpoint of step ", state.step));
  }
  common::LogInfo("committed a checkpoint", {{"step", state.step}, {"path", written.path}});
  for (const std::string& path : response.delete_paths()) {
    const absl::Status deleted = DeleteCheckpoint(checkpoints_dir_, path);
    if (!deleted.ok()) common::LogWarn("could not delete a checkpoint", {{"error", deleted}});
  }
  return absl::OkStatus();
}

}  // namespace d2g::rank

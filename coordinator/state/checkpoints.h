// The committed checkpoints of all jobs.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "coordinator/rows/tables.h"
#include "coordinator/state/moment.h"
#include "d2g/coordinator/v1/job_service.pb.h"
#include "d2g/coordinator/v1/training_service.pb.h"

namespace d2g::coordinator {

// INVALID_ARGUMENT when what the request says cannot be a checkpoint of the job. `path` is the
// normal form of the request's.
absl::Status CheckCommit(const v1::CommitCheckpointRequest& request, const rows::v1::JobRow& job,
                         const std::string& path);

// Owns the rows. A checkpoint is *retired* when its files may be deleted: it is no longer listed or
// resumed from, and its row goes when its files were named for deletion twice. Thread-compatible.
class Checkpoints {
 public:
  explicit Checkpoints(Table<rows::v1::CheckpointRow> rows) : rows_(std::move(rows)) {}

  // The job's newest that is not retired; null when there is none.
  const v1::Checkpoint* Last(absl::string_view job) const;
  // Also one that is retired; null when it is forgotten or never was.
  const rows::v1::CheckpointRow* Find(absl::string_view job, int64_t step) const;
  // Whether the job's last training step is committed.
  bool TrainDone(const rows::v1::JobRow& job) const;
  // All of the job that are not retired, with the ids of their rows, the newest first.
  std::vector<std::pair<std::string, const v1::Checkpoint*>> NewestFirst(
      absl::string_view job) const;
  // Paths of those that are retired.
  std::vector<std::string> RetiredPaths(absl::string_view job) const;

  // `path` is the normal form of the request's.
  const v1::Checkpoint& Add(absl::string_view job, const v1::CommitCheckpointRequest& request,
                            const std::string& path, Moment now);
  // Retires all but the newest `keep` and those whose paths are pinned, and returns the paths whose
  // files may be deleted: of those and of those that were retired before, which are forgotten now.
  std::vector<std::string> Retire(absl::string_view job, int32_t keep,
                                  const std::set<std::string>& pinned);
  void Forget(absl::string_view job) { rows_.EraseChildren(job); }

  void TakeChanges(RowChanges* changes) { rows_.TakeChanges(changes); }
  void CopyTo(RowChanges* all) const { rows_.CopyTo(all); }

 private:
  Table<rows::v1::CheckpointRow> rows_;
};

}  // namespace d2g::coordinator

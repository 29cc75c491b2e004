// Which triples a rank has trained on.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/rank/rank_batch.h"

namespace d2g::rank {

// Appends one JSON line a step to output_dir/audit/generation-G-rank-R.jsonl:
//
//   {"step":12,"epoch":0,"batch":11,"position":0,"indices":[4,9,...],"skipped":[9]}
//
// `step` counts from 1: the optimiser step that the batch made. `position` is the place of the
// first index in the global batch. Lines of a generation that went back to a checkpoint are
// repeated by the next generation from there on: of two lines for a step and position the later
// generation's holds. Not thread-safe.
class AuditLog {
 public:
  // Makes folder and file where they are missing, durably.
  static absl::StatusOr<std::unique_ptr<AuditLog>> Open(const std::string& output_dir,
                                                        int64_t generation, int rank);
  ~AuditLog();
  AuditLog(const AuditLog&) = delete;
  AuditLog& operator=(const AuditLog&) = delete;

  // One write(2): a reader sees whole lines, except after a crash of the machine.
  absl::Status Append(int64_t step, const RankBatch& batch);
  // Makes what was appended durable: before a checkpoint that counts on it is committed.
  absl::Status Sync();

  const std::string& path() const { return path_; }

 private:
  AuditLog(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}

  const int fd_;
  const std::string path_;
};

}  // namespace d2g::rank

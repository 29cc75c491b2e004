// The tasks of all jobs: which are leased, which failed, and which jobs are on trial for it.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "coordinator/rows/tables.h"
#include "coordinator/state/job_trials.h"
#include "coordinator/state/lease_table.h"
#include "coordinator/state/task_failures.h"
#include "d2g/coordinator/v1/task_service.pb.h"

namespace d2g::coordinator {

// Keeps its three parts in step: whoever notes a lapse or a failure notes it in all of them.
// Thread-compatible; holds no time of its own.
class Tasks {
 public:
  Tasks(absl::Duration lease_duration, uint64_t incarnation, Table<rows::v1::LeaseRow> leases,
        Table<rows::v1::FailureRow> failures, absl::Duration now)
      : leases_(lease_duration, incarnation, std::move(leases), now),
        failures_(std::move(failures)) {}

  const LeaseTable& leases() const { return leases_; }
  const TaskFailures& failures() const { return failures_; }
  const JobTrials& trials() const { return trials_; }

  int64_t Grant(rows::v1::LeaseRow row, absl::Duration now) {
    return leases_.Grant(std::move(row), now);
  }
  // Takes the holder's report; says whether it made triples durable since its last one. REQUIRES: a
  // live lease.
  bool Renew(const v1::HeartbeatTaskRequest& request, absl::Duration now);
  void Release(int64_t lease) { leases_.Erase(lease); }
  void Grace(absl::Duration now) { leases_.Grace(now); }

  // The lease has lapsed; it stays until it is released.
  void NoteLapse(const rows::v1::LeaseRow& lease, std::string error, absl::Duration now);
  // A shard took no triples. Ranges wait for the shard, other tasks for a back-off of their own.
  void NoteStoreFailure(const rows::v1::LeaseRow& lease, std::string error, absl::Duration now);
  TaskFailures::Counted NoteFailure(const rows::v1::LeaseRow& lease, const std::string& message,
                                    std::string error, absl::Duration now);
  // The job's tasks of this kind do work on the node.
  void NoteDone(absl::string_view job, int kind, absl::string_view node) {
    trials_.NoteProgress(job, kind, node);
  }
  // Somebody has sealed [begin, end); `sealed` is all of the job's dataset.
  void NoteSealed(absl::string_view job, const dataset::IndexSet& sealed, int64_t begin,
                  int64_t end) {
    failures_.ForgetSealed(job, sealed, begin, end);
  }
  // The job's evaluation or export has a result: nobody works on it any more.
  void Finish(absl::string_view job, int kind);
  // The job has ended, and its leases are released.
  void NoteEnded(absl::string_view job) { trials_.Erase(job); }
  void Forget(absl::string_view job) { failures_.ForgetJob(job); }

  void TakeChanges(RowChanges* changes);
  void CopyTo(RowChanges* all) const;

 private:
  LeaseTable leases_;
  TaskFailures failures_;
  JobTrials trials_;
};

}  // namespace d2g::coordinator

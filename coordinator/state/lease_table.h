// Live leases of tasks.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "coordinator/rows/tables.h"
#include "coordinator/state/task_kinds.h"
#include "d2g/coordinator/v1/task_service.pb.h"

namespace d2g::coordinator {

// A lease lapses when its progress has not grown for the lease duration, on monotonic time. Lease
// rows persist; progress and deadlines do not: after a restart, and after a pause of this process,
// every lease has one full duration of grace. Owns the rows and what is derived from them, so that
// no query looks at unrelated leases. Thread-compatible; holds no time of its own.
class LeaseTable {
 public:
  // What the holder reports; not persisted.
  struct Progress {
    int64_t progress = -1;  // -1: never reported
    int64_t done = 0;
    int64_t total = 0;
    std::string phase;
  };
  struct Live {
    const rows::v1::LeaseRow* row = nullptr;
    absl::Duration deadline;
    Progress reported;
  };

  // Lease ids start above incarnation << 32, so that none is ever given twice. REQUIRES:
  // incarnation < 2^31.
  LeaseTable(absl::Duration duration, uint64_t incarnation, Table<rows::v1::LeaseRow> rows,
             absl::Duration now);
  LeaseTable(const LeaseTable&) = delete;
  LeaseTable& operator=(const LeaseTable&) = delete;

  absl::Duration duration() const { return duration_; }

  // Stores a lease under a new id, which is returned; `row.lease_id` is ignored.
  int64_t Grant(rows::v1::LeaseRow row, absl::Duration now);
  // Null when the lease is gone.
  const rows::v1::LeaseRow* Find(int64_t lease_id) const;
  // Null when the lease is gone.
  const Progress* FindProgress(int64_t lease_id) const;
  // Extends the lease when the progress grew (the first report always does). False: it is gone.
  bool Renew(const v1::HeartbeatTaskRequest& request, absl::Duration now);
  void Erase(int64_t lease_id);

  // Leases past their deadline, by deadline. They stay until erased.
  std::vector<int64_t> Lapsed(absl::Duration now) const;
  // Gives every lease a full duration from `now`.
  void Grace(absl::Duration now);

  // Leases of a job, by id.
  std::vector<int64_t> OfJob(absl::string_view job) const;
  std::set<int64_t> OfJob(absl::string_view job, int kind) const;
  // The job's oldest lease of the kind; null when it has none.
  const rows::v1::LeaseRow* First(absl::string_view job, int kind) const;
  // Paths of the checkpoints that the job's evaluation and export read.
  std::set<std::string> CheckpointsOf(absl::string_view job) const;
  // The lease that was granted to the worker last, while nothing was heard of it; null without one.
  const rows::v1::LeaseRow* Unreported(absl::string_view worker) const;
  // What holders report as done of the dataset's leased ranges below `limit`, in all. Costs a
  // step for each lease beyond the limit; only larger jobs of the same dataset have any.
  int64_t DoneBelow(absl::string_view dataset, int64_t limit) const;
  // The live leases by id.
  const std::map<int64_t, Live>& live() const { return live_; }
  int64_t CountOf(int kind) const { return count_by_kind_.at(static_cast<size_t>(kind)); }

  void TakeChanges(RowChanges* changes) { rows_.TakeChanges(changes); }
  void CopyTo(RowChanges* all) const { rows_.CopyTo(all); }

 private:
  // A dataset's leased ranges.
  struct Ranges {
    int64_t done = 0;                                // of all of them
    std::set<std::pair<int64_t, int64_t>> by_begin;  // (begin, lease)
  };

  void Enter(const rows::v1::LeaseRow& row, absl::Duration now);
  void SetDeadline(int64_t id, Live& lease, absl::Duration deadline);

  absl::Duration duration_;
  int64_t next_id_;
  Table<rows::v1::LeaseRow> rows_;
  std::map<int64_t, Live> live_;
  std::set<std::pair<absl::Duration, int64_t>> by_deadline_;
  std::map<std::string, ByKind<std::set<int64_t>>, std::less<>> by_job_;
  std::map<std::string, Ranges, std::less<>> by_dataset_;
  std::map<std::string, int64_t, std::less<>> unreported_;  // by worker
  ByKind<int64_t> count_by_kind_ = {};
};

}  // namespace d2g::coordinator

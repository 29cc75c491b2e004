// Live leases of tasks.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "coordinator/rows/tables.h"
#include "d2g/coordinator/v1/task_service.pb.h"

namespace d2g::coordinator {

// A lease lapses when its progress has not grown for the lease duration, on monotonic time. Lease
// rows persist; progress and deadlines do not: after a restart, and after a pause of this process,
// every lease has one full duration of grace. Thread-compatible; holds no time of its own.
class LeaseTable {
 public:
  // What the holder reports; not persisted.
  struct Progress {
    absl::Duration deadline;
    int64_t progress = -1;  // -1: never reported
    int64_t done = 0;
    int64_t total = 0;
    std::string phase;
  };

  // `tables` must outlive the table; its lease rows are already loaded. Lease ids start above
  // incarnation << 32, so that none is ever given twice. REQUIRES: incarnation < 2^31.
  LeaseTable(absl::Duration duration, uint64_t incarnation, Tables* tables, absl::Duration now);

  absl::Duration duration() const { return duration_; }
  size_t size() const { return live_.size(); }

  // Stores a lease under a new id, which is returned; `row.lease_id` is ignored.
  int64_t Grant(rows::v1::LeaseRow row, absl::Duration now);
  // Null when the lease is gone.
  const rows::v1::LeaseRow* Find(int64_t lease_id) const;
  // Null when the lease is gone.
  const Progress* FindProgress(int64_t lease_id) const;
  // Extends the lease when the progress grew (the first report always does). False: it is gone.
  bool Renew(const d2g::coordinator::v1::HeartbeatTaskRequest& request, absl::Duration now);
  void Erase(int64_t lease_id);

  // Leases past their deadline, oldest first. They stay until erased.
  std::vector<int64_t> Lapsed(absl::Duration now) const;
  // Gives every lease a full duration from `now`.
  void Grace(absl::Duration now);

  // Leases of a job, by id.
  std::vector<int64_t> OfJob(absl::string_view job) const;
  // The live leases' ids with their progress.
  const std::map<int64_t, Progress>& live() const { return live_; }

 private:
  absl::Duration duration_;
  int64_t next_id_;
  Tables* tables_;
  std::map<int64_t, Progress> live_;
};

}  // namespace d2g::coordinator

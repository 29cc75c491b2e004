// Tasks that failed or whose lease lapsed, and how long each waits for its next try.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "coordinator/rows/tables.h"
#include "services/dataset/index_set.h"

namespace d2g::coordinator {

// The last message of each node on which the task failed, in the order in which they first did.
std::string ReasonsByNode(const rows::v1::FailureRow& failure);

// Owns the failure rows, a task's back-off, and indices of both, so that no query looks at
// unrelated tasks. A row is there until the task is done, by whomever. Back-offs do not persist:
// after a restart each task is tried at once. Ranges of one job's rows do not overlap: a range that
// failed is leased again as it was or as a part of it. Thread-compatible; holds no time of its own.
class TaskFailures {
 public:
  // The number of lapses of one task that is worth a word: a worker that was killed makes one.
  static constexpr int kManyLapses = 2;

  explicit TaskFailures(Table<rows::v1::FailureRow> rows);
  TaskFailures(const TaskFailures&) = delete;
  TaskFailures& operator=(const TaskFailures&) = delete;

  // All of a job, by number of the task.
  auto OfJob(absl::string_view job) const { return rows_.Children(job); }
  // The rows of the job's evaluation or export.
  std::vector<const rows::v1::FailureRow*> OfKind(absl::string_view job, int kind) const;
  // The job's failed range with this index; null when it is in none.
  const rows::v1::FailureRow* At(absl::string_view job, int64_t index) const;
  // The begin of the job's first failed range behind the index.
  std::optional<int64_t> NextBegin(absl::string_view job, int64_t index) const;
  // The job's failed ranges as (begin, task).
  using Ranges = std::set<std::pair<int64_t, int64_t>>;
  const Ranges& RangesOf(absl::string_view job) const;
  const rows::v1::FailureRow& Of(absl::string_view job, int64_t task) const;
  // Whether the task's back-off has not passed.
  bool BacksOff(const rows::v1::FailureRow& failure, absl::Duration now) const;

  // For views, each null when there is none. The job's first task with counted failures; its first
  // that lapsed often; its first that failed only because of the store, of those that `waits` is
  // true of.
  const rows::v1::FailureRow* FirstCounted(absl::string_view job) const;
  const rows::v1::FailureRow* FirstStalled(absl::string_view job) const;
  const rows::v1::FailureRow* FirstStarved(
      absl::string_view job, absl::FunctionRef<bool(const rows::v1::FailureRow&)> waits) const;

  // Each notes a failure of the lease's task; `error` is how the row words it.
  void NoteLapse(const rows::v1::LeaseRow& lease, std::string error);
  // The store's, which is not counted. `wait`: whether the task backs off.
  void NoteStoreFailure(const rows::v1::LeaseRow& lease, std::string error, bool wait,
                        absl::Duration now);
  // A counted one: the row, and for how long the task has failed since this start.
  struct Counted {
    const rows::v1::FailureRow* row;
    absl::Duration span;
  };
  Counted NoteFailure(const rows::v1::LeaseRow& lease, const std::string& message,
                      std::string error, absl::Duration now);

  // Forgets the job's failed ranges that touch [begin, end) and are all in `sealed`.
  void ForgetSealed(absl::string_view job, const dataset::IndexSet& sealed, int64_t begin,
                    int64_t end);
  void ForgetKind(absl::string_view job, int kind);
  void ForgetJob(absl::string_view job);

  void TakeChanges(RowChanges* changes) { rows_.TakeChanges(changes); }
  void CopyTo(RowChanges* all) const { rows_.CopyTo(all); }

 private:
  // The numbers of a job's tasks.
  struct Numbers {
    Ranges ranges;
    std::set<int64_t> others;  // evaluation and export
    std::set<int64_t> counted;
    std::set<int64_t> starved;
    std::set<int64_t> stalled;
  };
  // The times of a task.
  struct Times {
    absl::Duration not_before;
    std::optional<absl::Duration> first_failed;  // of the counted ones
  };

  const Numbers& NumbersOf(absl::string_view job) const;
  void Enter(const rows::v1::FailureRow& row);
  void Leave(const rows::v1::FailureRow& row);
  // Changes the row of the lease's task, made if absent.
  template <typename Change>
  const rows::v1::FailureRow& Update(const rows::v1::LeaseRow& lease, std::string error,
                                     Change change);
  void Erase(absl::string_view job, int64_t task);

  Table<rows::v1::FailureRow> rows_;
  std::map<std::string, Numbers, std::less<>> by_job_;
  std::map<std::string, Times, std::less<>> times_;  // by id of the row
};

}  // namespace d2g::coordinator

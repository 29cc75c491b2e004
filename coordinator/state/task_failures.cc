#include "coordinator/state/task_failures.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "coordinator/state/task_backoff.h"
#include "d2g/coordinator/v1/task_service.pb.h"

namespace d2g::coordinator {

using rows::v1::FailureRow;
using rows::v1::LeaseRow;

std::string ReasonsByNode(const FailureRow& failure) {
  std::vector<std::pair<std::string, std::string>> last;
  for (const auto& reason : failure.reasons()) {
    const auto known = std::find_if(
        last.begin(), last.end(), [&](const auto& entry) { return entry.first == reason.node(); });
    if (known == last.end()) {
      last.emplace_back(reason.node(), reason.message());
    } else {
      known->second = reason.message();
    }
  }
  return absl::StrJoin(last, "; ", [](std::string* out, const auto& entry) {
    absl::StrAppend(out, "[node ", entry.first, "] ", entry.second);
  });
}

TaskFailures::TaskFailures(Table<FailureRow> rows) : rows_(std::move(rows)) {
  for (const auto& [id, row] : rows_.rows()) Enter(row);
}

void TaskFailures::Enter(const FailureRow& row) {
  Numbers& tasks = by_job_[row.job()];
  if (row.kind() == v1::TASK_KIND_SIMULATE) {
    tasks.ranges.emplace(row.range().begin(), row.task());
  } else {
    tasks.others.insert(row.task());
  }
  if (row.reasons_size() > 0) {
    tasks.counted.insert(row.task());
  } else if (row.store_failures() > 0) {
    tasks.starved.insert(row.task());
  }
  if (row.lapses() >= kManyLapses) tasks.stalled.insert(row.task());
}

void TaskFailures::Leave(const FailureRow& row) {
  const auto it = by_job_.find(row.job());
  if (it == by_job_.end()) return;
  Numbers& tasks = it->second;
  tasks.ranges.erase({row.range().begin(), row.task()});
  for (auto* numbers : {&tasks.others, &tasks.counted, &tasks.starved, &tasks.stalled}) {
    numbers->erase(row.task());
  }
  if (tasks.ranges.empty() && tasks.others.empty()) by_job_.erase(it);
}

const TaskFailures::Numbers& TaskFailures::NumbersOf(absl::string_view job) const {
  static const Numbers* const none = new Numbers();
  const auto it = by_job_.find(job);
  return it == by_job_.end() ? *none : it->second;
}

const FailureRow& TaskFailures::Of(absl::string_view job, int64_t task) const {
  return *rows_.Find(ChildId(job, task));
}

std::vector<const FailureRow*> TaskFailures::OfKind(absl::string_view job, int kind) const {
  std::vector<const FailureRow*> rows;
  for (const int64_t task : NumbersOf(job).others) {
    const FailureRow& row = Of(job, task);
    if (row.kind() == kind) rows.push_back(&row);
  }
  return rows;
}

const TaskFailures::Ranges& TaskFailures::RangesOf(absl::string_view job) const {
  return NumbersOf(job).ranges;
}

const FailureRow* TaskFailures::At(absl::string_view job, int64_t index) const {
  const Ranges& ranges = RangesOf(job);
  auto it = ranges.lower_bound({index + 1, 0});
  if (it == ranges.begin()) return nullptr;
  const FailureRow& row = Of(job, std::prev(it)->second);
  return index < row.range().end() ? &row : nullptr;
}

std::optional<int64_t> TaskFailures::NextBegin(absl::string_view job, int64_t index) const {
  const Ranges& ranges = RangesOf(job);
  const auto it = ranges.lower_bound({index + 1, 0});
  return it == ranges.end() ? std::nullopt : std::optional<int64_t>(it->first);
}

bool TaskFailures::BacksOff(const FailureRow& failure, absl::Duration now) const {
  const auto it = times_.find(ChildId(failure.job(), failure.task()));
  return it != times_.end() && now < it->second.not_before;
}

const FailureRow* TaskFailures::FirstCounted(absl::string_view job) const {
  const Numbers& tasks = NumbersOf(job);
  return tasks.counted.empty() ? nullptr : &Of(job, *tasks.counted.begin());
}

const FailureRow* TaskFailures::FirstStalled(absl::string_view job) const {
  const Numbers& tasks = NumbersOf(job);
  return tasks.stalled.empty() ? nullptr : &Of(job, *tasks.stalled.begin());
}

const FailureRow* TaskFailures::FirstStarved(
    absl::string_view job, absl::FunctionRef<bool(const FailureRow&)> waits) const {
  for (const int64_t task : NumbersOf(job).starved) {
    const FailureRow& row = Of(job, task);
    if (waits(row)) return &row;
  }
  return nullptr;
}

template <typename Change>
const FailureRow& TaskFailures::Update(const LeaseRow& lease, std::string error, Change change) {
  FailureRow& row = rows_.Mutable(ChildId(lease.job(), lease.task()));
  Leave(row);
  row.set_job(lease.job());
  row.set_task(lease.task());
  row.set_kind(lease.kind());
  *row.mutable_range() = lease.range();
  row.set_last_error(std::move(error));
  change(row);
  Enter(row);
  return row;
}

void TaskFailures::NoteLapse(const LeaseRow& lease, std::string error) {
  Update(lease, std::move(error), [](FailureRow& row) { row.set_lapses(row.lapses() + 1); });
}

void TaskFailures::NoteStoreFailure(const LeaseRow& lease, std::string error, bool wait,
                                    absl::Duration now) {
  const FailureRow& row = Update(lease, std::move(error), [](FailureRow& failure) {
    failure.set_store_failures(failure.store_failures() + 1);
  });
  if (wait) {
    times_[ChildId(row.job(), row.task())].not_before = now + TaskBackoff(row.store_failures());
  }
}

TaskFailures::Counted TaskFailures::NoteFailure(const LeaseRow& lease, const std::string& message,
                                                std::string error, absl::Duration now) {
  const FailureRow& row = Update(lease, std::move(error), [&](FailureRow& failure) {
    FailureRow::Reason& reason = *failure.add_reasons();
    reason.set_node(lease.worker().node());
    reason.set_message(message);
  });
  Times& times = times_[ChildId(row.job(), row.task())];
  times.not_before = now + TaskBackoff(row.reasons_size());
  if (!times.first_failed.has_value()) times.first_failed = now;
  return {&row, now - *times.first_failed};
}

void TaskFailures::ForgetSealed(absl::string_view job, const dataset::IndexSet& sealed,
                                int64_t begin, int64_t end) {
  const Ranges& ranges = RangesOf(job);
  auto it = ranges.lower_bound({begin, 0});
  if (it != ranges.begin()) --it;  // it may reach into the part
  std::vector<int64_t> done;
  for (; it != ranges.end() && it->first < end; ++it) {
    const auto& range = Of(job, it->second).range();
    if (sealed.Count(range.begin(), range.end()) == range.end() - range.begin()) {
      done.push_back(it->second);
    }
  }
  for (const int64_t task : done) Erase(job, task);
}

void TaskFailures::ForgetKind(absl::string_view job, int kind) {
  for (const FailureRow* row : OfKind(job, kind)) Erase(job, row->task());
}

void TaskFailures::ForgetJob(absl::string_view job) {
  for (const auto& [id, row] : rows_.Children(job)) times_.erase(id);
  if (const auto it = by_job_.find(job); it != by_job_.end()) by_job_.erase(it);
  rows_.EraseChildren(job);
}

void TaskFailures::Erase(absl::string_view job, int64_t task) {
  Leave(Of(job, task));
  const std::string id = ChildId(job, task);
  times_.erase(id);
  rows_.Erase(id);
}

}  // namespace d2g::coordinator

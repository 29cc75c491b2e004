#include "coordinator/state/lease_table.h"

#include <algorithm>

#include "coordinator/rows/limits.h"
#include "services/common/utf8.h"

namespace d2g::coordinator {

using rows::v1::LeaseRow;

namespace {

// How much of its range below `limit` the lease's holder reports as done.
int64_t DoneOf(const LeaseTable::Live& lease, int64_t limit) {
  const auto& range = lease.row->range();
  return std::clamp<int64_t>(lease.reported.done, 0, std::min(limit, range.end()) - range.begin());
}

int64_t DoneOf(const LeaseTable::Live& lease) { return DoneOf(lease, lease.row->range().end()); }

bool HasRange(const LeaseRow& row) { return row.kind() == v1::TASK_KIND_SIMULATE; }

}  // namespace

LeaseTable::LeaseTable(absl::Duration duration, uint64_t incarnation, Table<LeaseRow> rows,
                       absl::Duration now)
    : duration_(duration),
      next_id_((static_cast<int64_t>(incarnation) << 32) + 1),
      rows_(std::move(rows)) {
  for (const auto& [id, row] : rows_.rows()) Enter(row, now);
}

void LeaseTable::Enter(const LeaseRow& row, absl::Duration now) {
  const int64_t id = row.lease_id();
  Live& lease = live_[id];
  lease.row = &row;
  SetDeadline(id, lease, now + duration_);
  by_job_[row.job()].at(row.kind()).insert(id);
  ++count_by_kind_.at(row.kind());
  if (HasRange(row)) by_dataset_[row.dataset()].by_begin.emplace(row.range().begin(), id);
}

void LeaseTable::SetDeadline(int64_t id, Live& lease, absl::Duration deadline) {
  by_deadline_.erase({lease.deadline, id});
  lease.deadline = deadline;
  by_deadline_.emplace(deadline, id);
}

int64_t LeaseTable::Grant(LeaseRow row, absl::Duration now) {
  const int64_t id = next_id_++;
  row.set_lease_id(id);
  LeaseRow& kept = rows_.Mutable(NumberId(id));
  kept = std::move(row);
  Enter(kept, now);
  unreported_[kept.worker().id()] = id;
  return id;
}

const LeaseRow* LeaseTable::Find(int64_t lease_id) const {
  const auto it = live_.find(lease_id);
  return it == live_.end() ? nullptr : it->second.row;
}

const LeaseTable::Progress* LeaseTable::FindProgress(int64_t lease_id) const {
  const auto it = live_.find(lease_id);
  return it == live_.end() ? nullptr : &it->second.reported;
}

bool LeaseTable::Renew(const v1::HeartbeatTaskRequest& request, absl::Duration now) {
  const auto it = live_.find(request.lease_id());
  if (it == live_.end()) return false;
  Live& lease = it->second;
  Progress& reported = lease.reported;
  if (request.progress() > reported.progress) {
    reported.progress = request.progress();
    SetDeadline(it->first, lease, now + duration_);
  }
  reported.phase = common::ValidUtf8(request.phase(), kMaxIdBytes);
  const int64_t before = DoneOf(lease);
  reported.done = request.done();
  reported.total = request.total();
  if (HasRange(*lease.row)) {
    by_dataset_.find(lease.row->dataset())->second.done += DoneOf(lease) - before;
  }
  const auto unreported = unreported_.find(lease.row->worker().id());
  if (unreported != unreported_.end() && unreported->second == it->first) {
    unreported_.erase(unreported);
  }
  return true;
}

void LeaseTable::Erase(int64_t lease_id) {
  const auto it = live_.find(lease_id);
  if (it == live_.end()) return;
  const Live& lease = it->second;
  const LeaseRow& row = *lease.row;
  by_deadline_.erase({lease.deadline, lease_id});
  const auto of_job = by_job_.find(row.job());
  of_job->second.at(row.kind()).erase(lease_id);
  if (std::all_of(of_job->second.begin(), of_job->second.end(),
                  [](const auto& ids) { return ids.empty(); })) {
    by_job_.erase(of_job);
  }
  --count_by_kind_.at(row.kind());
  if (HasRange(row)) {
    const auto ranges = by_dataset_.find(row.dataset());
    ranges->second.done -= DoneOf(lease);
    ranges->second.by_begin.erase({row.range().begin(), lease_id});
    if (ranges->second.by_begin.empty()) by_dataset_.erase(ranges);
  }
  const auto unreported = unreported_.find(row.worker().id());
  if (unreported != unreported_.end() && unreported->second == lease_id) {
    unreported_.erase(unreported);
  }
  live_.erase(it);
  rows_.Erase(NumberId(lease_id));
}

std::vector<int64_t> LeaseTable::Lapsed(absl::Duration now) const {
  std::vector<int64_t> lapsed;
  for (const auto& [deadline, id] : by_deadline_) {
    if (now < deadline) break;
    lapsed.push_back(id);
  }
  return lapsed;
}

void LeaseTable::Grace(absl::Duration now) {
  for (auto& [id, lease] : live_) SetDeadline(id, lease, now + duration_);
}

std::vector<int64_t> LeaseTable::OfJob(absl::string_view job) const {
  std::vector<int64_t> leases;
  if (const auto it = by_job_.find(job); it != by_job_.end()) {
    for (const auto& ids : it->second) leases.insert(leases.end(), ids.begin(), ids.end());
  }
  std::sort(leases.begin(), leases.end());
  return leases;
}

std::set<int64_t> LeaseTable::OfJob(absl::string_view job, int kind) const {
  const auto it = by_job_.find(job);
  return it == by_job_.end() ? std::set<int64_t>() : it->second.at(static_cast<size_t>(kind));
}

const LeaseRow* LeaseTable::First(absl::string_view job, int kind) const {
  const auto it = by_job_.find(job);
  if (it == by_job_.end()) return nullptr;
  const std::set<int64_t>& ids = it->second.at(static_cast<size_t>(kind));
  return ids.empty() ? nullptr : Find(*ids.begin());
}

std::set<std::string> LeaseTable::CheckpointsOf(absl::string_view job) const {
  std::set<std::string> paths;
  for (const TaskKindFacts& facts : kTaskKinds) {
    if (facts.kind == v1::TASK_KIND_SIMULATE) continue;
    for (const int64_t id : OfJob(job, facts.kind)) paths.insert(Find(id)->checkpoint_path());
  }
  return paths;
}

const LeaseRow* LeaseTable::Unreported(absl::string_view worker) const {
  const auto it = unreported_.find(worker);
  return it == unreported_.end() ? nullptr : Find(it->second);
}

int64_t LeaseTable::DoneBelow(absl::string_view dataset, int64_t limit) const {
  const auto found = by_dataset_.find(dataset);
  if (found == by_dataset_.end()) return 0;
  int64_t done = found->second.done;
  const auto& by_begin = found->second.by_begin;
  // From the last one on. Leased ranges do not overlap: behind one that ends below the limit none
  // begins beyond it.
  for (auto it = by_begin.rbegin(); it != by_begin.rend(); ++it) {
    const Live& lease = live_.at(it->second);
    if (lease.row->range().end() <= limit) break;
    done -= DoneOf(lease);
    if (lease.row->range().begin() < limit) done += DoneOf(lease, limit);
  }
  return done;
}

}  // namespace d2g::coordinator

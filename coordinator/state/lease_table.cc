#include "coordinator/state/lease_table.h"

#include <utility>

#include "coordinator/rows/limits.h"
#include "services/common/utf8.h"

namespace d2g::coordinator {

LeaseTable::LeaseTable(absl::Duration duration, uint64_t incarnation, Tables* tables,
                       absl::Duration now)
    : duration_(duration),
      next_id_((static_cast<int64_t>(incarnation) << 32) + 1),
      tables_(tables) {
  for (const auto& [id, row] : tables_->leases.rows()) {
    live_[row.lease_id()].deadline = now + duration_;
  }
}

int64_t LeaseTable::Grant(rows::v1::LeaseRow row, absl::Duration now) {
  const int64_t id = next_id_++;
  row.set_lease_id(id);
  tables_->leases.Mutable(NumberId(id)) = std::move(row);
  live_[id].deadline = now + duration_;
  return id;
}

const rows::v1::LeaseRow* LeaseTable::Find(int64_t lease_id) const {
  return lease_id < 0 ? nullptr : tables_->leases.Find(NumberId(lease_id));
}

const LeaseTable::Progress* LeaseTable::FindProgress(int64_t lease_id) const {
  const auto it = live_.find(lease_id);
  return it == live_.end() ? nullptr : &it->second;
}

bool LeaseTable::Renew(const d2g::coordinator::v1::HeartbeatTaskRequest& request,
                       absl::Duration now) {
  const auto it = live_.find(request.lease_id());
  if (it == live_.end()) return false;
  Progress& lease = it->second;
  if (request.progress() > lease.progress) {
    lease.progress = request.progress();
    lease.deadline = now + duration_;
  }
  lease.phase = d2g::common::ValidUtf8(request.phase(), kMaxIdBytes);
  lease.done = request.done();
  lease.total = request.total();
  return true;
}

void LeaseTable::Erase(int64_t lease_id) {
  if (live_.erase(lease_id) > 0) tables_->leases.Erase(NumberId(lease_id));
}

std::vector<int64_t> LeaseTable::Lapsed(absl::Duration now) const {
  std::vector<int64_t> lapsed;
  for (const auto& [id, lease] : live_) {
    if (now >= lease.deadline) lapsed.push_back(id);
  }
  return lapsed;
}

void LeaseTable::Grace(absl::Duration now) {
  for (auto& [id, lease] : live_) lease.deadline = now + duration_;
}

std::vector<int64_t> LeaseTable::OfJob(absl::string_view job) const {
  std::vector<int64_t> ids;
  for (const auto& [id, lease] : live_) {
    if (Find(id)->job() == job) ids.push_back(id);
  }
  return ids;
}

}  // namespace d2g::coordinator

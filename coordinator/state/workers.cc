#include "coordinator/state/workers.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "coordinator/rows/limits.h"
#include "services/common/status_macros.h"

namespace d2g::coordinator {

namespace {

absl::Status CheckText(absl::string_view field, absl::string_view value, bool required) {
  if ((!required || !value.empty()) && value.size() <= kMaxIdBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      field, ": has ", value.size(), " bytes; must have ", required ? 1 : 0, " to ", kMaxIdBytes));
}

}  // namespace

absl::Status CheckWorker(const v1::WorkerInfo& worker) {
  D2G_RETURN_IF_ERROR(CheckText("worker.id", worker.id(), true));
  D2G_RETURN_IF_ERROR(CheckText("worker.node", worker.node(), true));
  D2G_RETURN_IF_ERROR(CheckText("worker.device", worker.device(), false));
  return CheckText("worker.build", worker.build(), false);
}

void Workers::Leave(const std::string& id, Entry& entry) {
  (entry.live ? live_ : silent_).erase({entry.last_seen, id});
  if (entry.live) Count(entry.worker, -1);
  entry.live = false;
}

void Workers::Enter(const std::string& id, Entry& entry, absl::Duration now) {
  entry.live = true;
  entry.last_seen = now;
  live_.emplace(now, id);
  Count(entry.worker, 1);
}

void Workers::Count(const Worker& worker, int by) {
  for (const int kind : worker.kinds) {
    const auto node = by_node_.at(static_cast<size_t>(kind)).try_emplace(worker.node).first;
    node->second += by;
    if (node->second == 0) by_node_.at(static_cast<size_t>(kind)).erase(node);
  }
  if (worker.has_gpu && worker.kinds.contains(v1::TASK_KIND_SIMULATE)) gpu_simulators_ += by;
}

const Worker& Workers::See(const v1::WorkerInfo& info, std::set<int> kinds, absl::Duration now) {
  const auto [it, fresh] = workers_.try_emplace(info.id());
  Entry& entry = it->second;
  if (!fresh) Leave(it->first, entry);
  entry.worker = {info.node(), absl::StartsWith(info.device(), "cuda"), std::move(kinds)};
  Enter(it->first, entry, now);
  return entry.worker;
}

void Workers::SeeAtWork(const v1::WorkerInfo& info, int kind, absl::Duration now) {
  const auto known = workers_.find(info.id());
  std::set<int> kinds = known == workers_.end() ? std::set<int>() : known->second.worker.kinds;
  kinds.insert(kind);
  See(info, std::move(kinds), now);
}

void Workers::NoteTime(absl::Duration now) {
  while (!live_.empty() && now - live_.begin()->first > kWorkerTimeout) {
    const auto it = workers_.find(live_.begin()->second);
    Leave(it->first, it->second);
    silent_.emplace(it->second.last_seen, it->first);
  }
  while (!silent_.empty() && now - silent_.begin()->first > std::max(kWorkerTimeout, memory_)) {
    workers_.erase(silent_.begin()->second);
    silent_.erase(silent_.begin());
  }
}

void Workers::Grace(absl::Duration now) {
  for (auto& [id, entry] : workers_) {
    Leave(id, entry);
    Enter(id, entry, now);
  }
}

bool Workers::Offered(int kind, const std::set<std::string>& other_than_nodes) const {
  for (const auto& [node, count] : by_node_.at(static_cast<size_t>(kind))) {
    if (!other_than_nodes.contains(node)) return true;
  }
  return false;
}

}  // namespace d2g::coordinator

#include "coordinator/state/job_trials.h"

#include "coordinator/rows/limits.h"
#include "coordinator/state/task_backoff.h"

namespace d2g::coordinator {

void JobTrials::Streak::Fail(absl::Duration now) {
  ++failures;
  not_before = now;
  if (failures > 1) not_before += TaskBackoff(failures - 1);
}

void JobTrials::NoteFailure(absl::string_view job, int kind, absl::string_view node,
                            absl::Duration now) {
  Tasks& tasks = tasks_[{std::string(job), kind}];
  tasks.all.Fail(now);
  tasks.nodes[std::string(node)].Fail(now);
}

void JobTrials::NoteLapse(absl::string_view job, int kind, absl::Duration now) {
  Streak& all = tasks_[{std::string(job), kind}].all;
  if (all.failures == 0) all.Fail(now);
}

void JobTrials::NoteProgress(absl::string_view job, int kind, absl::string_view node) {
  const auto it = tasks_.find({std::string(job), kind});
  if (it == tasks_.end()) return;
  it->second.all = Streak();
  if (const auto on_node = it->second.nodes.find(node); on_node != it->second.nodes.end()) {
    it->second.nodes.erase(on_node);
  }
  if (it->second.nodes.empty()) tasks_.erase(it);
}

void JobTrials::Erase(absl::string_view job) {
  std::erase_if(tasks_, [job](const auto& entry) { return entry.first.first == job; });
}

const JobTrials::Tasks* JobTrials::Find(absl::string_view job, int kind) const {
  const auto it = tasks_.find({std::string(job), kind});
  return it == tasks_.end() ? nullptr : &it->second;
}

bool JobTrials::OnTrial(absl::string_view job, int kind) const {
  const Tasks* tasks = Find(job, kind);
  return tasks != nullptr && tasks->all.failures > 0;
}

bool JobTrials::Insists(absl::string_view job, int kind) const {
  const Tasks* tasks = Find(job, kind);
  return tasks != nullptr && tasks->all.failures > 1;
}

bool JobTrials::StandsBehind(absl::string_view job, int kind, absl::Duration now) const {
  const Tasks* tasks = Find(job, kind);
  return tasks != nullptr && tasks->all.failures > 0 &&
         now < tasks->all.not_before + kMaxTrialDelay;
}

bool JobTrials::Waits(absl::string_view job, int kind, absl::string_view node, bool leased,
                      absl::Duration now) const {
  const Tasks* tasks = Find(job, kind);
  if (tasks == nullptr) return false;
  if (tasks->all.failures > 0 && (leased || now < tasks->all.not_before)) return true;
  const auto on_node = tasks->nodes.find(node);
  return on_node != tasks->nodes.end() && now < on_node->second.not_before;
}

}  // namespace d2g::coordinator

// The workers that ask for tasks.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "coordinator/state/task_kinds.h"
#include "d2g/coordinator/v1/task_service.pb.h"

namespace d2g::coordinator {

// INVALID_ARGUMENT names the field that is too long or missing.
absl::Status CheckWorker(const v1::WorkerInfo& worker);

struct Worker {
  std::string node;
  bool has_gpu = false;
  std::set<int> kinds;  // of tasks that it takes
};

// Live means: heard of within kWorkerTimeout. Nothing persists: workers call again. What is asked
// of them all is counted as they come and go, so that no question looks at each. Thread-compatible;
// holds no time of its own.
class Workers {
 public:
  // A silent worker's kinds are remembered for `memory`, but not shorter than kWorkerTimeout.
  explicit Workers(absl::Duration memory) : memory_(memory) {}

  // Notes a sign of life. `kinds` are those that it takes now.
  const Worker& See(const v1::WorkerInfo& info, std::set<int> kinds, absl::Duration now);
  // The same from a heartbeat: it takes this kind too, whatever it said before.
  void SeeAtWork(const v1::WorkerInfo& info, int kind, absl::Duration now);
  // To be called before each decision: drops those that have been silent for too long.
  void NoteTime(absl::Duration now);
  // After a pause of this process: every worker counts as heard of `now`.
  void Grace(absl::Duration now);

  int64_t live_count() const { return static_cast<int64_t>(live_.size()); }
  // Whether a live worker takes such tasks on a node that is none of these.
  bool Offered(int kind, const std::set<std::string>& other_than_nodes) const;
  // Whether a live worker with a GPU simulates.
  bool GpuSimulates() const { return gpu_simulators_ > 0; }

 private:
  struct Entry {
    Worker worker;
    absl::Duration last_seen;
    bool live = false;
  };
  using Order = std::set<std::pair<absl::Duration, std::string>>;  // by the last sign of life

  // Takes the entry out of its order and the counts, and puts it in as live and heard of `now`.
  void Leave(const std::string& id, Entry& entry);
  void Enter(const std::string& id, Entry& entry, absl::Duration now);
  // Adds a worker to the counts (+1) or takes it from them (-1).
  void Count(const Worker& worker, int by);

  const absl::Duration memory_;
  std::map<std::string, Entry, std::less<>> workers_;
  Order live_;
  Order silent_;
  int64_t gpu_simulators_ = 0;
  ByKind<std::map<std::string, int64_t>> by_node_;  // how many take the kind, by node
};

}  // namespace d2g::coordinator

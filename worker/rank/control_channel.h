// What ranks agree on: one small all-reduce a step. All ranks act on its result and on nothing
// local, so that none leaves or skips a step alone.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "worker/collective/process_group.h"

namespace d2g::rank {

// What a rank says.
struct ControlMessage {
  // This rank was told to leave after a checkpoint.
  bool stop = false;
  // Samples of its part of the batch that count, and that were skipped.
  int64_t valid = 0;
  int64_t skipped = 0;
  // Its numbers were not finite in the step before.
  bool not_finite = false;
  // It waits for its part of the batch.
  bool data_waits = false;
  // A checkpoint of its is being written or is not yet committed.
  bool commit_waits = false;
  // Hash of the parameters it holds; only at checkpoints.
  std::optional<uint64_t> parameter_hash;
  // Its part of the metrics of the step before: sums over ranks are means over the batch.
  std::map<std::string, double> metrics;
};

// What all ranks said, the same on each.
struct ControlResult {
  // Some rank was told to leave.
  bool stop = false;
  int64_t valid = 0;
  int64_t skipped = 0;
  bool not_finite = false;
  bool data_waits = false;
  bool commit_waits = false;
  // Every rank gave a hash, and all are equal.
  bool hashes_agree = false;
  // Sums over ranks; those that no rank gave are absent.
  std::map<std::string, double> metrics;
};

// Not thread-safe.
class ControlChannel {
 public:
  // `metric_names` must be the same, in the same order, on every rank. `group` must outlive it.
  ControlChannel(collective::ProcessGroup* group, std::vector<std::string> metric_names);

  // Waits for all ranks. A metric that is not among the names is left out. Throws
  // collective::PeerError when a rank is lost.
  ControlResult Exchange(const ControlMessage& message);

 private:
  collective::ProcessGroup* const group_;
  const std::vector<std::string> metric_names_;
};

}  // namespace d2g::rank

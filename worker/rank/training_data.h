// Where training data comes from.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/synchronization/notification.h"
#include "d2g/store/v1/triple_service.pb.h"
#include "services/dataset/index_set.h"

namespace d2g::rank {

// Thread-safe. Calls block; those that wait return CANCELLED soon after `stop` is notified.
class TrainingData {
 public:
  virtual ~TrainingData() = default;

  // The sealed set that `epoch` of this job reads: the same at every call, from every rank.
  virtual absl::StatusOr<dataset::IndexSet> Snapshot(int64_t epoch,
                                                     const absl::Notification& stop) = 0;

  // Triples of one shard, at most store::IndicesPerRead, in the order asked for. One attempt.
  // DATA_LOSS is about the triples. Worth a retry: UNAVAILABLE and DEADLINE_EXCEEDED, and NOT_FOUND
  // and FAILED_PRECONDITION, which mean that the shard lost its volume.
  virtual absl::StatusOr<std::vector<store::v1::Triple>> ReadTriples(
      int shard, const std::vector<int64_t>& indices) = 0;
};

}  // namespace d2g::rank

// Training data from the cluster: snapshots from the coordinator, triples from the shards.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "coordinator/client/client.h"
#include "d2g/common/v1/recipe.pb.h"
#include "services/store/client/triple_client.h"
#include "worker/rank/training_data.h"

namespace d2g::rank {

// Thread-safe. Waits for the coordinator where it needs a new snapshot, also while that has too few
// sealed triples for one. When a shard does not answer, asks the coordinator where it is now (at
// most every kRefreshInterval), since a restarted shard may have another address.
class ClusterData : public TrainingData {
 public:
  // `shards` as the assignment names them. `coordinator` must outlive it.
  ClusterData(coordinator::CoordinatorClient* coordinator, std::string job, std::string dataset,
              const std::vector<common::v1::ShardAddress>& shards);

  absl::StatusOr<dataset::IndexSet> Snapshot(int64_t epoch,
                                             const absl::Notification& stop) override;
  absl::StatusOr<std::vector<store::v1::Triple>> ReadTriples(
      int shard, const std::vector<int64_t>& indices) override;

  static constexpr absl::Duration kRefreshInterval = absl::Seconds(1);
  static constexpr absl::Duration kReadTimeout = absl::Seconds(20);

 private:
  std::shared_ptr<store::TripleClient> ClientOf(int shard) ABSL_LOCKS_EXCLUDED(mutex_);
  void RefreshAddresses() ABSL_LOCKS_EXCLUDED(mutex_);
  void Use(const common::v1::ShardAddress& address) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  coordinator::CoordinatorClient* const coordinator_;
  const std::string job_;
  const std::string dataset_;

  absl::Mutex mutex_;
  // By shard number; null while unknown.
  std::vector<std::shared_ptr<store::TripleClient>> clients_ ABSL_GUARDED_BY(mutex_);
  absl::Duration last_refresh_ ABSL_GUARDED_BY(mutex_) = -absl::InfiniteDuration();
};

}  // namespace d2g::rank

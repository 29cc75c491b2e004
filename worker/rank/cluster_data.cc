#include "worker/rank/cluster_data.h"

#include <set>
#include <stdexcept>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "services/common/clock.h"
#include "services/common/deadline.h"
#include "services/common/log.h"
#include "services/common/retry.h"
#include "services/common/status_macros.h"

namespace d2g::rank {
namespace {

// One call's share of a longer wait, after which the wait is logged.
constexpr absl::Duration kCoordinatorTimeout = absl::Seconds(5);

absl::StatusOr<dataset::IndexSet> SealedSet(const coordinator::v1::Snapshot& snapshot) {
  std::vector<dataset::Range> ranges;
  for (const common::v1::IndexRange& range : snapshot.ranges()) {
    ranges.push_back({range.begin(), range.end()});
  }
  try {
    return dataset::IndexSet(ranges);
  } catch (const std::invalid_argument& error) {
    return absl::InternalError(
        absl::StrCat("snapshot of epoch ", snapshot.epoch(), ": ", error.what()));
  }
}

// Whether another address of the shard may help.
bool MayHaveMoved(const absl::Status& status) {
  return common::IsRetryable(status) || absl::IsFailedPrecondition(status);
}

}  // namespace

ClusterData::ClusterData(coordinator::CoordinatorClient* coordinator, std::string job,
                         std::string dataset, const std::vector<common::v1::ShardAddress>& shards)
    : coordinator_(coordinator), job_(std::move(job)), dataset_(std::move(dataset)) {
  absl::MutexLock lock(&mutex_);
  for (const common::v1::ShardAddress& shard : shards) Use(shard);
}

absl::StatusOr<dataset::IndexSet> ClusterData::Snapshot(int64_t epoch,
                                                        const absl::Notification& stop) {
  coordinator::v1::GetOrCreateSnapshotRequest request;
  request.set_job(job_);
  request.set_epoch(epoch);
  coordinator::v1::Snapshot snapshot;
  std::set<absl::StatusCode> logged;
  common::RetryOptions retry;
  retry.stop = &stop;
  const absl::Status status = common::RetryUntil(
      absl::InfiniteFuture(),
      [&]() -> absl::Status {
        const auto answer =
            coordinator_->GetOrCreateSnapshot(request, common::DeadlineIn(kCoordinatorTimeout));
        if (answer.ok()) {
          snapshot = *answer;
          return absl::OkStatus();
        }
        // Too few triples are sealed while a lost volume is simulated again. A job that has ended
        // is refused alike, but then the rank is told to leave.
        const bool refused = absl::IsFailedPrecondition(answer.status());
        if ((refused || common::IsRetryable(answer.status())) &&
            logged.insert(answer.status().code()).second) {
          common::LogWarn(
              refused ? "the coordinator has no snapshot yet; the next epoch waits for it"
                      : "the coordinator does not answer; the next epoch waits for its snapshot",
              {{"epoch", epoch}, {"error", answer.status()}});
        }
        return refused ? absl::UnavailableError(answer.status().message()) : answer.status();
      },
      retry);
  D2G_RETURN_IF_ERROR(common::Annotate(status, absl::StrCat("snapshot of epoch ", epoch)));
  return SealedSet(snapshot);
}

absl::StatusOr<std::vector<store::v1::Triple>> ClusterData::ReadTriples(
    int shard, const std::vector<int64_t>& indices) {
  const std::shared_ptr<store::TripleClient> client = ClientOf(shard);
  if (client == nullptr) {
    RefreshAddresses();
    return absl::UnavailableError(absl::StrCat("shard ", shard, " of ", dataset_, " is down"));
  }
  absl::StatusOr<std::vector<store::v1::Triple>> triples =
      client->ReadTriplesOnce(dataset_, indices, kReadTimeout);
  if (!triples.ok() && MayHaveMoved(triples.status())) {
    RefreshAddresses();
    // The address was another store's: that of ours is tried next.
    if (absl::IsFailedPrecondition(triples.status()) && ClientOf(shard) != client) {
      return absl::UnavailableError(triples.status().message());
    }
  }
  return triples;
}

std::shared_ptr<store::TripleClient> ClusterData::ClientOf(int shard) {
  absl::MutexLock lock(&mutex_);
  return shard < static_cast<int>(clients_.size()) ? clients_[shard] : nullptr;
}

void ClusterData::RefreshAddresses() {
  {
    absl::MutexLock lock(&mutex_);
    const absl::Duration now = common::RealClock::Get()->SteadyNow();
    if (now - last_refresh_ < kRefreshInterval) return;
    last_refresh_ = now;
  }
  coordinator::v1::GetDatasetRequest request;
  request.set_name(dataset_);
  const absl::StatusOr<coordinator::v1::Dataset> dataset =
      coordinator_->GetDataset(request, common::DeadlineIn(kCoordinatorTimeout));
  if (!dataset.ok()) return;
  absl::MutexLock lock(&mutex_);
  for (const common::v1::ShardAddress& shard : dataset->shards()) Use(shard);
}

void ClusterData::Use(const common::v1::ShardAddress& address) {
  if (address.shard() < 0) return;
  const size_t number = static_cast<size_t>(address.shard());
  if (clients_.size() <= number) clients_.resize(number + 1);
  const std::shared_ptr<store::TripleClient>& known = clients_[number];
  if (known != nullptr && known->shard().address() == address.address() &&
      known->shard().store_uuid() == address.store_uuid()) {
    return;
  }
  clients_[number] = std::make_shared<store::TripleClient>(address);
}

}  // namespace d2g::rank

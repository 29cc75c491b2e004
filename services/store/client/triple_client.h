// Client of one store shard.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "d2g/common/v1/recipe.pb.h"
#include "d2g/store/v1/triple_service.grpc.pb.h"
#include "services/store/client/append_session.h"

namespace d2g::store {

// What an append session appends to.
struct AppendTarget {
  // "datasets/{id}".
  std::string dataset;
  // Inside one block of the shard.
  common::v1::IndexRange range;
  // As the lease gave it.
  int64_t range_epoch = 0;
  v1::Producer producer;
};

// Thread-safe. Blocking calls retry while the shard is unreachable, until the caller's deadline,
// and then return the last error (UNAVAILABLE or DEADLINE_EXCEEDED). A shard whose number or store
// uuid is another than in `shard` answers FAILED_PRECONDITION.
class TripleClient {
 public:
  // `stop`, when given, ends retrying with CANCELLED once notified; it must outlive the client.
  explicit TripleClient(common::v1::ShardAddress shard, const absl::Notification* stop = nullptr);
  ~TripleClient();
  TripleClient(const TripleClient&) = delete;
  TripleClient& operator=(const TripleClient&) = delete;

  const common::v1::ShardAddress& shard() const { return shard_; }

  // Idempotent; ALREADY_EXISTS when the shard knows the name with another recipe. Returns the
  // store's uuid.
  absl::StatusOr<std::string> OpenDataset(const std::string& dataset,
                                          const common::v1::DatasetRecipe& recipe,
                                          absl::Time deadline);

  // Opens a stream. The client must outlive the session.
  absl::StatusOr<std::unique_ptr<AppendSession>> Append(const AppendTarget& target,
                                                        absl::Time deadline);

  // ABORTED names the first index that is not durable.
  absl::StatusOr<v1::SealRangeResponse> SealRange(const std::string& dataset,
                                                  const common::v1::IndexRange& range,
                                                  const v1::Producer& producer,
                                                  absl::Time deadline);

  // 1 to 64 indices, answered in the order asked for. Bytes are checked against their checksum here
  // too: DATA_LOSS names dataset and index.
  absl::StatusOr<std::vector<v1::Triple>> ReadTriples(const std::string& dataset,
                                                      const std::vector<int64_t>& indices,
                                                      absl::Time deadline);

  // The same in one attempt, for a caller that may know another address before the next one.
  absl::StatusOr<std::vector<v1::Triple>> ReadTriplesOnce(const std::string& dataset,
                                                          const std::vector<int64_t>& indices,
                                                          absl::Duration timeout);

  absl::StatusOr<v1::ListSealedRangesResponse> ListSealedRanges(const std::string& dataset,
                                                                absl::Time deadline);

  // Calls `finding` for each bad triple. A broken stream is an error, not retried.
  using FindingCallback = std::function<void(const v1::VerifyDatasetResponse::Finding&)>;
  absl::StatusOr<v1::VerifyDatasetResponse::Summary> VerifyDataset(const std::string& dataset,
                                                                   const FindingCallback& finding,
                                                                   absl::Time deadline);

  // Makes a range absent again under a new, greater epoch. Returns how many triples went.
  absl::StatusOr<int64_t> InvalidateRange(const std::string& dataset,
                                          const common::v1::IndexRange& range, int64_t range_epoch,
                                          absl::Time deadline);

  absl::Status DropDataset(const std::string& dataset, absl::Time deadline);

  absl::StatusOr<v1::GetStatsResponse> GetStats(absl::Time deadline);

 private:
  v1::DatasetKey Key(const std::string& dataset) const;

  const common::v1::ShardAddress shard_;
  const absl::Notification* const stop_;
  // Appends have a connection of their own: small calls and reads do not queue behind them.
  const std::unique_ptr<v1::TripleService::Stub> stub_;
  const std::unique_ptr<v1::TripleService::Stub> append_stub_;
};

}  // namespace d2g::store

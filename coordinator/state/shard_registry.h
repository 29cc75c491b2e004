// Which store shards there are and which of them answer.
#pragma once

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "coordinator/rows/tables.h"
#include "d2g/common/v1/recipe.pb.h"

namespace d2g::coordinator {

// Live means: heard of within kShardTimeout. Owns the rows, which are last known addresses and
// uuids, so that readers find shards while the coordinator restarts. Thread-compatible; holds no
// time of its own.
class ShardRegistry {
 public:
  ShardRegistry(int32_t shard_count, Table<rows::v1::ShardRow> rows, absl::Duration now)
      : count_(shard_count), rows_(std::move(rows)), start_(now) {}

  int32_t count() const { return count_; }

  // Notes a sign of life. INVALID_ARGUMENT for a number out of range or a missing address or uuid;
  // ALREADY_EXISTS while another store uuid holds the number and lives, or may live: for one
  // kShardTimeout after the start, until it was heard of.
  absl::Status Heartbeat(const common::v1::ShardAddress& shard, absl::Duration now);
  // Last known address; null before the shard was ever heard of.
  const common::v1::ShardAddress* Find(int32_t shard) const;
  bool Live(int32_t shard, absl::Duration now) const;
  // A worker could not append to the shard: no ranges of it are leased for a while, longer each
  // time, until NoteDurable or until another store or address takes the number.
  void NoteRefusal(int32_t shard, absl::Duration now);
  // The shard made triples durable.
  void NoteDurable(int32_t shard) { refusals_.erase(shard); }
  // Whether the last that was heard of appends to the shard is a refusal.
  bool Refuses(int32_t shard) const { return refusals_.contains(shard); }
  // Live and not held off by a refusal.
  bool TakesAppends(int32_t shard, absl::Duration now) const;
  // Live shards, and all that were ever heard of (readers retry one that is down).
  std::vector<common::v1::ShardAddress> LiveShards(absl::Duration now) const;
  std::vector<common::v1::ShardAddress> KnownShards() const;
  // Shards that are not live, ascending.
  std::vector<int32_t> Missing(absl::Duration now) const;
  // After a pause of this process: whoever was heard of before counts as heard of `now`.
  void Grace(absl::Duration now);

  void TakeChanges(RowChanges* changes) { rows_.TakeChanges(changes); }
  void CopyTo(RowChanges* all) const { rows_.CopyTo(all); }

 private:
  struct Refusals {
    int count = 0;
    absl::Duration not_before;
  };

  int32_t count_;
  Table<rows::v1::ShardRow> rows_;
  const absl::Duration start_;
  std::map<int32_t, absl::Duration> last_seen_;
  std::map<int32_t, Refusals> refusals_;
};

}  // namespace d2g::coordinator

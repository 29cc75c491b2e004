#include "coordinator/state/shard_registry.h"

#include "absl/strings/str_cat.h"
#include "coordinator/rows/limits.h"
#include "coordinator/state/task_backoff.h"

namespace d2g::coordinator {

using common::v1::ShardAddress;

absl::Status ShardRegistry::Heartbeat(const ShardAddress& shard, absl::Duration now) {
  if (shard.shard() < 0 || shard.shard() >= count_) {
    return absl::InvalidArgumentError(absl::StrCat("shard.shard: ", shard.shard(),
                                                   " is not from 0 to ", count_ - 1,
                                                   "; this cluster has ", count_, " shards"));
  }
  if (shard.address().empty() || shard.address().size() > size_t{2} * kMaxIdBytes) {
    return absl::InvalidArgumentError("shard.address: must be host:port");
  }
  if (shard.store_uuid().empty() || shard.store_uuid().size() > kMaxIdBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("shard.store_uuid: must have 1 to ", kMaxIdBytes, " bytes"));
  }
  const ShardAddress* known = Find(shard.shard());
  const bool live = Live(shard.shard(), now);
  if (known != nullptr && known->store_uuid() != shard.store_uuid() &&
      (live || now - start_ <= kShardTimeout)) {
    return absl::AlreadyExistsError(absl::StrCat(
        "shard ", shard.shard(), " is held by store ", known->store_uuid(), " at ",
        known->address(), ", which ", live ? "is alive" : "may report within the start's grace",
        "; store ", shard.store_uuid(), " at ", shard.address(), " must take another number"));
  }
  if (known == nullptr || known->store_uuid() != shard.store_uuid() ||
      known->address() != shard.address()) {
    *rows_.Mutable(NumberId(shard.shard())).mutable_address() = shard;
    refusals_.erase(shard.shard());
  }
  last_seen_[shard.shard()] = now;
  return absl::OkStatus();
}

const ShardAddress* ShardRegistry::Find(int32_t shard) const {
  const auto* row = rows_.Find(NumberId(shard));
  return row == nullptr ? nullptr : &row->address();
}

bool ShardRegistry::Live(int32_t shard, absl::Duration now) const {
  const auto it = last_seen_.find(shard);
  return it != last_seen_.end() && now - it->second <= kShardTimeout;
}

void ShardRegistry::NoteRefusal(int32_t shard, absl::Duration now) {
  Refusals& refusals = refusals_[shard];
  // Workers that were under way together are refused together.
  if (now < refusals.not_before) return;
  refusals.not_before = now + TaskBackoff(++refusals.count);
}

bool ShardRegistry::TakesAppends(int32_t shard, absl::Duration now) const {
  const auto it = refusals_.find(shard);
  return Live(shard, now) && (it == refusals_.end() || now >= it->second.not_before);
}

std::vector<ShardAddress> ShardRegistry::LiveShards(absl::Duration now) const {
  std::vector<ShardAddress> live;
  for (const auto& [id, row] : rows_.rows()) {
    if (Live(row.address().shard(), now)) live.push_back(row.address());
  }
  return live;
}

std::vector<ShardAddress> ShardRegistry::KnownShards() const {
  std::vector<ShardAddress> known;
  for (const auto& [id, row] : rows_.rows()) known.push_back(row.address());
  return known;
}

std::vector<int32_t> ShardRegistry::Missing(absl::Duration now) const {
  std::vector<int32_t> missing;
  for (int32_t shard = 0; shard < count_; ++shard) {
    if (!Live(shard, now)) missing.push_back(shard);
  }
  return missing;
}

void ShardRegistry::Grace(absl::Duration now) {
  for (auto& [shard, seen] : last_seen_) seen = now;
}

}  // namespace d2g::coordinator

#include "services/store/triple_store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "services/common/status_macros.h"
#include "services/dataset/latent_codec.h"
#include "services/dataset/sharding.h"
#include "services/store/block_change.h"

namespace d2g::store {

using common::v1::IndexRange;
using v1::Triple;

namespace {

std::string RangeText(const IndexRange& range) {
  return absl::StrCat("[", range.begin(), ", ", range.end(), ")");
}

}  // namespace

absl::Status TripleStore::CheckRange(const Dataset& dataset, const IndexRange& range) const {
  const int64_t size = dataset.recipe.block_size();
  const auto bad = [&](const std::string& why) {
    return absl::InvalidArgumentError(
        absl::StrCat(dataset.name, ": range ", RangeText(range), " ", why));
  };
  if (range.begin() < 0 || range.end() <= range.begin()) return bad("is empty or negative");
  const int64_t block = range.begin() / size;
  if ((range.end() - 1) / size != block) {
    return bad(absl::StrCat("is not inside one block of ", size));
  }
  const int32_t shard = dataset::ShardOfBlock(dataset.recipe, block);
  if (shard != options_.shard) {
    return absl::FailedPreconditionError(absl::StrCat(dataset.name, ": range ", RangeText(range),
                                                      " lives on shard ", shard, "; this is shard ",
                                                      options_.shard));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> TripleStore::OpenRange(const std::string& name, const IndexRange& range,
                                                   int64_t range_epoch) const {
  D2G_ASSIGN_OR_RETURN(const std::shared_ptr<Dataset> dataset, Find(name));
  D2G_RETURN_IF_ERROR(CheckRange(*dataset, range));
  absl::MutexLock lock(&dataset->mutex);
  if (dataset->dropped) return absl::NotFoundError(absl::StrCat(name, " is being dropped"));
  const auto it = dataset->blocks.find(range.begin() / dataset->recipe.block_size());
  if (it == dataset->blocks.end()) {
    return dataset::Bitmap(range.end() - range.begin()).bytes();
  }
  if (range_epoch < it->second->state.range_epoch()) {
    return absl::AbortedError(
        absl::StrCat(name, ": range ", RangeText(range), " was invalidated: its epoch is ",
                     it->second->state.range_epoch(), ", the append carries ", range_epoch));
  }
  return it->second->state.Presence(range);
}

absl::Status TripleStore::CheckTriple(const Dataset& dataset, const Triple& triple) const {
  const auto context = [&] { return absl::StrCat(dataset.name, " index ", triple.index(), ": "); };
  if (static_cast<int64_t>(triple.x().size()) != dataset::LatentBytes(dataset.recipe)) {
    return absl::InvalidArgumentError(absl::StrCat(context(), "x has ", triple.x().size(),
                                                   " bytes; the recipe's latent has ",
                                                   dataset::LatentBytes(dataset.recipe)));
  }
  if (triple.prompt_index() < 0 || triple.prompt_index() >= dataset.recipe.prompt_count()) {
    return absl::InvalidArgumentError(absl::StrCat(context(), "prompt_index is ",
                                                   triple.prompt_index(), "; the prompt list has ",
                                                   dataset.recipe.prompt_count()));
  }
  if (dataset::LatentChecksum(triple.x()) != triple.x_checksum()) {
    if (options_.metrics != nullptr) options_.metrics->checksum_failures.Increment();
    return absl::DataLossError(absl::StrCat(context(), "x does not match x_checksum on arrival"));
  }
  const int64_t element = dataset::FindNonFinite(triple.x(), dataset.recipe.storage_dtype());
  if (element >= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(context(), "x holds NaN or infinity at element ", element));
  }
  return absl::OkStatus();
}

absl::Status TripleStore::CheckSpace(int64_t bytes) const {
  D2G_ASSIGN_OR_RETURN(const Engine::Space space, engine_->GetSpace());
  const int64_t floor = std::max(
      options_.min_free_bytes,
      static_cast<int64_t>(options_.min_free_share * static_cast<double>(space.total_bytes)));
  if (space.free_bytes - bytes >= floor) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("the disk of ", space.path,
                                                   " is too full for appends: ", space.free_bytes,
                                                   " bytes are free and the limit is ", floor));
}

absl::Status TripleStore::WriteTimed(const Commit& commit) {
  const absl::Duration start = options_.clock->SteadyNow();
  const absl::Status status = engine_->Write(commit);
  if (options_.metrics != nullptr) {
    options_.metrics->commit_seconds.Observe(
        absl::ToDoubleSeconds(options_.clock->SteadyNow() - start));
    double bytes = 0;
    for (const Commit::Value& value : commit.values) bytes += static_cast<double>(value.x.size());
    if (bytes > 0) options_.metrics->commit_bytes.Observe(bytes);
  }
  return status;
}

absl::StatusOr<TripleStore::Appended> TripleStore::Append(const std::string& name,
                                                          int64_t range_epoch,
                                                          absl::Span<const Triple* const> triples) {
  if (triples.empty()) return Appended{};
  const absl::Duration start = options_.clock->SteadyNow();
  D2G_ASSIGN_OR_RETURN(const std::shared_ptr<Dataset> dataset, Find(name));
  IndexRange span;
  span.set_begin(triples.front()->index());
  span.set_end(triples.front()->index() + 1);
  int64_t bytes = 0;
  for (const Triple* triple : triples) {
    span.set_begin(std::min(span.begin(), triple->index()));
    span.set_end(std::max(span.end(), triple->index() + 1));
    bytes += static_cast<int64_t>(triple->x().size());
  }
  D2G_RETURN_IF_ERROR(CheckRange(*dataset, span));
  for (const Triple* triple : triples) D2G_RETURN_IF_ERROR(CheckTriple(*dataset, *triple));

  BlockChange change(dataset.get());
  D2G_RETURN_IF_ERROR(change.Begin(span.begin()));
  BlockState& state = change.state();
  if (range_epoch < state.range_epoch()) {
    return absl::AbortedError(absl::StrCat(name, ": range ", RangeText(span),
                                           " was invalidated: its epoch is ", state.range_epoch(),
                                           ", the append carries ", range_epoch));
  }
  Appended result;
  Commit commit;
  commit.dataset = dataset->id;
  int64_t written_bytes = 0;
  for (const Triple* triple : triples) {
    if (state.IsPresent(triple->index())) {
      ++result.repeated;
      continue;
    }
    state.MarkPresent(triple->index());
    ++result.written;
    written_bytes += static_cast<int64_t>(triple->x().size());
    commit.values.push_back(
        {triple->index(), EncodeTripleHeader(*triple, dataset->recipe), triple->x()});
    commit.rows.emplace_back(EncodeRowKey({RowKind::kChecksum, dataset->id, triple->index()}),
                             EncodeChecksum(triple->x_checksum()));
  }
  if (result.written > 0) {
    D2G_RETURN_IF_ERROR(CheckSpace(bytes));
    commit.rows.emplace_back(EncodeRowKey(change.row_key()), state.ToRow().SerializeAsString());
    D2G_RETURN_IF_ERROR(common::Annotate(WriteTimed(commit), name));
    change.Apply();
  }
  if (result.repeated > 0) {
    absl::MutexLock lock(&dataset->mutex);
    dataset->repeated_appends += result.repeated;
  }
  if (StoreMetrics* const metrics = options_.metrics; metrics != nullptr) {
    metrics->appended_triples.Increment(result.written);
    metrics->appended_bytes.Increment(static_cast<double>(written_bytes));
    metrics->repeated_appends.Increment(result.repeated);
    metrics->append_seconds.Observe(absl::ToDoubleSeconds(options_.clock->SteadyNow() - start));
  }
  return result;
}

absl::StatusOr<std::map<int64_t, uint64_t>> TripleStore::ReadChecksums(
    const Dataset& dataset, const IndexRange& range) const {
  std::map<int64_t, uint64_t> checksums;
  absl::Status bad;
  D2G_RETURN_IF_ERROR(engine_->ScanRows(
      EncodeRowKey({RowKind::kChecksum, dataset.id, range.begin()}),
      EncodeRowKey({RowKind::kChecksum, dataset.id, range.end()}),
      [&](absl::string_view key, absl::string_view value) {
        const auto decoded = DecodeRowKey(key);
        const auto checksum = DecodeChecksum(value);
        if (!decoded.ok() || !checksum.ok()) {
          bad = absl::DataLossError(absl::StrCat(dataset.name, ": a checksum row is unreadable"));
          return false;
        }
        checksums[decoded->number] = *checksum;
        return true;
      }));
  D2G_RETURN_IF_ERROR(bad);
  return checksums;
}

absl::StatusOr<v1::SealRangeResponse> TripleStore::Seal(const std::string& name,
                                                        const IndexRange& range,
                                                        const v1::Producer& producer) {
  D2G_ASSIGN_OR_RETURN(const std::shared_ptr<Dataset> dataset, Find(name));
  D2G_RETURN_IF_ERROR(CheckRange(*dataset, range));
  BlockChange change(dataset.get());
  D2G_RETURN_IF_ERROR(change.Begin(range.begin()));
  BlockState& state = change.state();
  for (int64_t index = range.begin(); index < range.end(); ++index) {
    if (!state.IsPresent(index)) {
      return absl::AbortedError(absl::StrCat(name, ": range ", RangeText(range),
                                             " cannot be sealed: index ", index, " is missing"));
    }
  }
  D2G_ASSIGN_OR_RETURN(const auto checksums, ReadChecksums(*dataset, range));
  uint64_t digest = 0;
  int64_t newly_sealed = 0;
  for (int64_t index = range.begin(); index < range.end(); ++index) {
    const auto checksum = checksums.find(index);
    if (checksum == checksums.end()) {
      return absl::DataLossError(
          absl::StrCat(name, " index ", index, ": its checksum row is lost"));
    }
    const uint64_t part = SealDigest(index, checksum->second);
    digest += part;
    if (state.IsSealed(index)) continue;
    state.MarkSealed(index, part);
    ++newly_sealed;
  }
  if (newly_sealed > 0) {
    v1::SealRow seal;
    *seal.mutable_range() = range;
    *seal.mutable_producer() = producer;
    seal.mutable_seal_time()->set_seconds(absl::ToUnixSeconds(options_.clock->Now()));
    Commit commit;
    commit.rows.emplace_back(EncodeRowKey(change.row_key()), state.ToRow().SerializeAsString());
    commit.rows.emplace_back(EncodeRowKey({RowKind::kSeal, dataset->id, range.begin()}),
                             seal.SerializeAsString());
    D2G_RETURN_IF_ERROR(common::Annotate(WriteTimed(commit), name));
    change.Apply();
    if (options_.metrics != nullptr) {
      options_.metrics->sealed_triples.Increment(static_cast<double>(newly_sealed));
    }
  }
  v1::SealRangeResponse response;
  *response.mutable_sealed()->mutable_range() = range;
  response.mutable_sealed()->set_digest(digest);
  absl::MutexLock lock(&dataset->mutex);
  response.set_dataset_sealed_count(dataset->sealed_count);
  response.set_dataset_digest(dataset->sealed_digest);
  return response;
}

bool TripleStore::IsPresent(const Dataset& dataset, int64_t index) const {
  if (index < 0) return false;
  absl::MutexLock lock(&dataset.mutex);
  const auto it = dataset.blocks.find(index / dataset.recipe.block_size());
  if (dataset.dropped || it == dataset.blocks.end()) return false;
  return it->second->state.IsPresent(index);
}

void TripleStore::AwaitChange(const Dataset& dataset, int64_t index) const {
  absl::MutexLock lock(&dataset.mutex);
  const auto it = dataset.blocks.find(index / dataset.recipe.block_size());
  if (it == dataset.blocks.end()) return;
  const bool* const busy = &it->second->busy;
  dataset.mutex.Await(absl::Condition(
      +[](const bool* busy) { return !*busy; }, busy));
}

absl::StatusOr<Triple> TripleStore::ReadFrom(const Dataset& dataset, int64_t index) const {
  const absl::Duration start = options_.clock->SteadyNow();
  const std::string context = absl::StrCat(dataset.name, " index ", index);
  const absl::Status absent = absl::NotFoundError(absl::StrCat(context, " is absent"));
  if (!IsPresent(dataset, index)) return absent;
  const auto value = engine_->ReadValue(dataset.id, index);
  absl::StatusOr<Triple> triple =
      value.ok() ? DecodeTriple(*value, index, dataset.recipe) : value.status();
  if (absl::IsNotFound(triple.status())) {
    // It may have been invalidated or dropped just now. An invalidation is visible once it is over.
    AwaitChange(dataset, index);
    if (!IsPresent(dataset, index)) return absent;
    triple = absl::DataLossError("its value is gone");
  }
  StoreMetrics* const metrics = options_.metrics;
  if (!triple.ok()) {
    if (metrics != nullptr && absl::IsDataLoss(triple.status())) {
      metrics->checksum_failures.Increment();
    }
    return common::Annotate(triple.status(), context);
  }
  if (metrics != nullptr) {
    metrics->read_triples.Increment();
    metrics->read_bytes.Increment(static_cast<double>(triple->x().size()));
    metrics->read_seconds.Observe(absl::ToDoubleSeconds(options_.clock->SteadyNow() - start));
  }
  return triple;
}

absl::StatusOr<Triple> TripleStore::Read(const std::string& name, int64_t index) const {
  D2G_ASSIGN_OR_RETURN(const std::shared_ptr<Dataset> dataset, Find(name));
  return ReadFrom(*dataset, index);
}

absl::StatusOr<v1::ListSealedRangesResponse> TripleStore::ListSealed(
    const std::string& name) const {
  D2G_ASSIGN_OR_RETURN(const std::shared_ptr<Dataset> dataset, Find(name));
  v1::ListSealedRangesResponse response;
  absl::MutexLock lock(&dataset->mutex);
  if (dataset->dropped) return response;
  for (const auto& [number, block] : dataset->blocks) {
    for (const IndexRange& range : block->state.SealedRanges()) {
      const int last = response.ranges_size() - 1;
      if (last >= 0 && response.ranges(last).end() == range.begin()) {
        response.mutable_ranges(last)->set_end(range.end());
      } else {
        *response.add_ranges() = range;
      }
    }
  }
  response.set_sealed_count(dataset->sealed_count);
  response.set_digest(dataset->sealed_digest);
  return response;
}

absl::StatusOr<v1::VerifyDatasetResponse::Summary> TripleStore::Verify(
    const std::string& name,
    absl::FunctionRef<bool(int64_t index, const std::string& reason)> finding,
    absl::FunctionRef<bool()> go_on) const {
  D2G_ASSIGN_OR_RETURN(const std::shared_ptr<Dataset> dataset, Find(name));
  std::vector<BlockState> blocks;
  {
    absl::MutexLock lock(&dataset->mutex);
    if (dataset->dropped) return absl::NotFoundError(absl::StrCat(name, " is being dropped"));
    for (const auto& [number, block] : dataset->blocks) blocks.push_back(block->state);
  }
  v1::VerifyDatasetResponse::Summary summary;
  for (const BlockState& block : blocks) {
    IndexRange whole;
    whole.set_begin(block.first());
    whole.set_end(block.first() + block.size());
    D2G_ASSIGN_OR_RETURN(const auto checksums, ReadChecksums(*dataset, whole));
    uint64_t digest = 0;
    for (int64_t index = whole.begin(); index < whole.end(); ++index) {
      if (!block.IsPresent(index)) continue;
      if (!go_on()) return absl::CancelledError("ended by the caller");
      summary.set_present(summary.present() + 1);
      summary.set_checked(summary.checked() + 1);
      const auto triple = ReadFrom(*dataset, index);
      std::string reason;
      const auto checksum = checksums.find(index);
      if (!triple.ok()) {
        reason = std::string(triple.status().message());
      } else if (checksum == checksums.end() || checksum->second != triple->x_checksum()) {
        reason = absl::StrCat(name, " index ", index, ": its checksum row is lost or differs");
      }
      if (checksum != checksums.end() && block.IsSealed(index)) {
        digest += SealDigest(index, checksum->second);
      }
      if (reason.empty()) continue;
      summary.set_bad(summary.bad() + 1);
      if (!finding(index, reason)) return absl::CancelledError("ended by the caller");
    }
    if (digest != block.sealed_digest()) {
      summary.set_bad(summary.bad() + 1);
      if (!finding(block.first(), absl::StrCat(name, ": the digest of the block at index ",
                                               block.first(), " differs from its triples'"))) {
        return absl::CancelledError("ended by the caller");
      }
    }
  }
  return summary;
}

absl::StatusOr<int64_t> TripleStore::Invalidate(const std::string& name, const IndexRange& range,
                                                int64_t range_epoch) {
  D2G_ASSIGN_OR_RETURN(const std::shared_ptr<Dataset> dataset, Find(name));
  D2G_RETURN_IF_ERROR(CheckRange(*dataset, range));
  BlockChange change(dataset.get());
  D2G_RETURN_IF_ERROR(change.Begin(range.begin()));
  BlockState& state = change.state();
  if (range_epoch <= state.range_epoch()) {
    return absl::FailedPreconditionError(
        absl::StrCat(name, ": range ", RangeText(range), " has epoch ", state.range_epoch(),
                     "; the new one must be greater than it, not ", range_epoch));
  }
  D2G_ASSIGN_OR_RETURN(const auto checksums, ReadChecksums(*dataset, range));
  state.RaiseEpoch(range_epoch);
  Commit commit;
  commit.dataset = dataset->id;
  for (int64_t index = range.begin(); index < range.end(); ++index) {
    if (!state.IsPresent(index)) continue;
    const auto checksum = checksums.find(index);
    state.MarkAbsent(index, checksum == checksums.end() ? 0 : SealDigest(index, checksum->second));
    commit.removed_values.push_back(index);
    commit.removed_rows.push_back(EncodeRowKey({RowKind::kChecksum, dataset->id, index}));
  }
  commit.rows.emplace_back(EncodeRowKey(change.row_key()), state.ToRow().SerializeAsString());
  D2G_RETURN_IF_ERROR(common::Annotate(WriteTimed(commit), name));
  change.Apply();
  const auto removed = static_cast<int64_t>(commit.removed_values.size());
  if (options_.metrics != nullptr) {
    options_.metrics->invalidated_triples.Increment(static_cast<double>(removed));
  }
  return removed;
}

int64_t TripleStore::FreeBytes() const {
  const auto space = engine_->GetSpace();
  return space.ok() ? space->free_bytes : 0;
}

absl::Status TripleStore::Ready() const { return engine_->Health(); }

}  // namespace d2g::store

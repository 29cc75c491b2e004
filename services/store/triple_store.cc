#include "services/store/triple_store.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "google/protobuf/util/message_differencer.h"
#include "services/common/grpc_status.h"
#include "services/common/log.h"
#include "services/common/status_macros.h"
#include "services/store/latent_codec.h"

namespace d2g::store {

using d2g::common::FieldViolation;
using d2g::common::v1::DatasetRecipe;
using d2g::common::v1::IndexRange;
using d2g::store::v1::Triple;

namespace {

constexpr size_t kMaxNameBytes = 200;
constexpr int kMaxLatentSide = 4096;

std::string RandomUuid() {
  std::random_device random;
  return absl::StrFormat("%08x%08x%08x%08x", random(), random(), random(), random());
}

void CheckBetween(const std::string& field, int64_t value, int64_t least, int64_t most,
                  std::vector<FieldViolation>* violations) {
  if (value < least || value > most) {
    violations->push_back(
        {field, absl::StrCat("is ", value, "; it must be from ", least, " to ", most)});
  }
}

absl::Status CheckRecipe(const std::string& name, const DatasetRecipe& recipe, int shard) {
  std::vector<FieldViolation> violations;
  if (!absl::StartsWith(name, "datasets/") || name.size() > kMaxNameBytes ||
      name.size() == sizeof("datasets/") - 1) {
    violations.push_back(
        {"key.dataset",
         absl::StrCat("'", name, "' is not datasets/{id} of at most ", kMaxNameBytes, " bytes")});
  }
  CheckBetween("recipe.latent_channels", recipe.latent_channels(), 1, kMaxLatentSide, &violations);
  CheckBetween("recipe.latent_height", recipe.latent_height(), 1, kMaxLatentSide, &violations);
  CheckBetween("recipe.latent_width", recipe.latent_width(), 1, kMaxLatentSide, &violations);
  CheckBetween("recipe.block_size", recipe.block_size(), kMinBlockSize, kMaxBlockSize, &violations);
  CheckBetween("recipe.shard_count", recipe.shard_count(), shard + 1, 65536, &violations);
  if (BytesOf(recipe.storage_dtype()) == 0) {
    violations.push_back({"recipe.storage_dtype", "is none of fp16, bf16, fp32"});
  }
  if (violations.empty() && LatentBytes(recipe) > kMaxLatentBytes) {
    violations.push_back({"recipe", absl::StrCat("a latent has ", LatentBytes(recipe),
                                                 " bytes; the limit is ", kMaxLatentBytes)});
  }
  return violations.empty() ? absl::OkStatus() : d2g::common::BadRequest(std::move(violations));
}

std::string RangeText(const IndexRange& range) {
  return absl::StrCat("[", range.begin(), ", ", range.end(), ")");
}

absl::Status NotFoundDataset(const std::string& name) {
  return absl::NotFoundError(absl::StrCat(name, " is not open on this shard"));
}

}  // namespace

class TripleStore::BlockChange {
 public:
  explicit BlockChange(Dataset* dataset) : dataset_(dataset) {}
  ~BlockChange() {
    if (block_ == nullptr) return;
    absl::MutexLock lock(&dataset_->mutex);
    block_->busy = false;
    --dataset_->changing;
  }
  BlockChange(const BlockChange&) = delete;
  BlockChange& operator=(const BlockChange&) = delete;

  // Waits for other changes of the block that holds `index`.
  absl::Status Begin(int64_t index) {
    const int64_t size = dataset_->recipe.block_size();
    const int64_t number = index / size;
    absl::MutexLock lock(&dataset_->mutex);
    std::unique_ptr<Block>& slot = dataset_->blocks[number];
    if (slot == nullptr) slot = std::make_unique<Block>(BlockState(number * size, size));
    Block* const block = slot.get();
    const auto free = [this, block]() ABSL_SHARED_LOCKS_REQUIRED(dataset_->mutex) {
      return dataset_->dropped || !block->busy;
    };
    dataset_->mutex.Await(absl::Condition(&free));
    if (dataset_->dropped) return NotFoundDataset(dataset_->name);
    block->busy = true;
    ++dataset_->changing;
    block_ = block;
    state_ = std::make_unique<BlockState>(block->state);
    return absl::OkStatus();
  }

  // The copy: change it, write it to disk, then Apply.
  BlockState& state() { return *state_; }
  RowKey row_key() const {
    return {RowKind::kBlock, dataset_->id, state_->first() / dataset_->recipe.block_size()};
  }

  // Makes the change visible. Call once its commit is durable.
  void Apply() {
    absl::MutexLock lock(&dataset_->mutex);
    BlockState& old = block_->state;
    dataset_->present_count += state_->present_count() - old.present_count();
    dataset_->sealed_count += state_->sealed_count() - old.sealed_count();
    dataset_->sealed_digest += state_->sealed_digest() - old.sealed_digest();
    old = *state_;
  }

 private:
  Dataset* const dataset_;
  Block* block_ = nullptr;
  std::unique_ptr<BlockState> state_;
};

class TripleStore::CatalogTurn {
 public:
  explicit CatalogTurn(TripleStore* store) : store_(store) {
    const auto free = [store]() ABSL_SHARED_LOCKS_REQUIRED(store->mutex_) {
      return !store->catalog_busy_;
    };
    absl::MutexLock lock(&store_->mutex_, absl::Condition(&free));
    store_->catalog_busy_ = true;
  }
  ~CatalogTurn() {
    absl::MutexLock lock(&store_->mutex_);
    store_->catalog_busy_ = false;
  }
  CatalogTurn(const CatalogTurn&) = delete;
  CatalogTurn& operator=(const CatalogTurn&) = delete;

 private:
  TripleStore* const store_;
};

TripleStore::TripleStore(std::unique_ptr<Engine> engine, const TripleStoreOptions& options)
    : engine_(std::move(engine)), options_(options) {}

TripleStore::~TripleStore() = default;

absl::StatusOr<std::unique_ptr<TripleStore>> TripleStore::Create(
    std::unique_ptr<Engine> engine, const TripleStoreOptions& options) {
  std::unique_ptr<TripleStore> store(new TripleStore(std::move(engine), options));
  D2G_RETURN_IF_ERROR(store->LoadIdentity());
  D2G_RETURN_IF_ERROR(store->Load());
  return store;
}

absl::Status TripleStore::LoadIdentity() {
  const std::string key = EncodeRowKey({RowKind::kStore});
  const auto bytes = engine_->ReadRow(key);
  if (absl::IsNotFound(bytes.status())) {
    d2g::store::v1::StoreRow row;
    row.set_format(kStoreFormat);
    row.set_uuid(RandomUuid());
    row.set_shard(options_.shard);
    uuid_ = row.uuid();
    Commit commit;
    commit.rows.emplace_back(key, row.SerializeAsString());
    return engine_->Write(commit);
  }
  D2G_RETURN_IF_ERROR(bytes.status());
  d2g::store::v1::StoreRow row;
  if (!row.ParseFromString(*bytes)) return absl::DataLossError("the store row is unreadable");
  D2G_ASSIGN_OR_RETURN(const Engine::Space space, engine_->GetSpace());
  if (row.format() != kStoreFormat) {
    return absl::FailedPreconditionError(absl::StrCat(space.path, " has store format ",
                                                      row.format(), "; this build reads format ",
                                                      kStoreFormat));
  }
  if (row.shard() != options_.shard) {
    return absl::FailedPreconditionError(absl::StrCat(space.path, " belongs to shard ", row.shard(),
                                                      ", not to shard ", options_.shard));
  }
  uuid_ = row.uuid();
  return absl::OkStatus();
}

absl::Status TripleStore::Load() {
  std::map<DatasetId, d2g::store::v1::DatasetRow> rows;
  const std::string prefix = RowPrefix(RowKind::kDataset);
  absl::Status bad;
  D2G_RETURN_IF_ERROR(engine_->ScanRows(
      prefix, PrefixEnd(prefix), [&](absl::string_view key, absl::string_view value) {
        const auto decoded = DecodeRowKey(key);
        if (!decoded.ok() ||
            !rows[decoded->dataset].ParseFromArray(value.data(), static_cast<int>(value.size()))) {
          bad = absl::DataLossError("a dataset row is unreadable");
        }
        return bad.ok();
      }));
  D2G_RETURN_IF_ERROR(bad);
  const std::vector<DatasetId> places = engine_->Datasets();
  DatasetId last = 0;
  for (const DatasetId id : places) {
    last = std::max(last, id);
    // Left over from an open or drop that a crash cut short.
    if (!rows.contains(id)) D2G_RETURN_IF_ERROR(engine_->DropDataset(id));
  }
  for (const auto& [id, row] : rows) {
    last = std::max(last, id);
    if (row.dropping()) {
      D2G_RETURN_IF_ERROR(RemoveDataset(id));
      continue;
    }
    if (std::find(places.begin(), places.end(), id) == places.end()) {
      return absl::DataLossError(absl::StrCat(row.name(), " has lost its column family"));
    }
    D2G_RETURN_IF_ERROR(LoadDataset(id, row));
  }
  absl::MutexLock lock(&mutex_);
  next_id_ = last + 1;
  return absl::OkStatus();
}

absl::Status TripleStore::LoadDataset(DatasetId id, const d2g::store::v1::DatasetRow& row) {
  auto dataset = std::make_shared<Dataset>();
  dataset->id = id;
  dataset->name = row.name();
  dataset->recipe = row.recipe();
  const int64_t size = row.recipe().block_size();
  const std::string prefix = RowPrefix(RowKind::kBlock, id);
  absl::Status bad;
  absl::MutexLock lock(&dataset->mutex);
  const auto load = [&](absl::string_view key,
                        absl::string_view value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(dataset->mutex) {
    const auto decoded = DecodeRowKey(key);
    d2g::store::v1::BlockRow block;
    if (!decoded.ok() || !block.ParseFromArray(value.data(), static_cast<int>(value.size()))) {
      bad = absl::DataLossError(absl::StrCat(row.name(), ": a block row is unreadable"));
      return false;
    }
    auto state = BlockState::FromRow(decoded->number * size, size, block);
    if (!state.ok()) {
      bad = d2g::common::Annotate(state.status(), row.name());
      return false;
    }
    dataset->present_count += state->present_count();
    dataset->sealed_count += state->sealed_count();
    dataset->sealed_digest += state->sealed_digest();
    dataset->blocks[decoded->number] = std::make_unique<Block>(*std::move(state));
    return true;
  };
  D2G_RETURN_IF_ERROR(engine_->ScanRows(prefix, PrefixEnd(prefix), load));
  D2G_RETURN_IF_ERROR(bad);
  absl::MutexLock catalog(&mutex_);
  datasets_[row.name()] = dataset;
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<TripleStore::Dataset>> TripleStore::Find(
    const std::string& name) const {
  absl::MutexLock lock(&mutex_);
  const auto it = datasets_.find(name);
  if (it == datasets_.end()) return NotFoundDataset(name);
  return it->second;
}

absl::Status TripleStore::OpenDataset(const std::string& name, const DatasetRecipe& recipe) {
  D2G_RETURN_IF_ERROR(CheckRecipe(name, recipe, options_.shard));
  const CatalogTurn turn(this);
  const auto known = Find(name);
  if (known.ok()) {
    if (google::protobuf::util::MessageDifferencer::Equals((*known)->recipe, recipe)) {
      return absl::OkStatus();
    }
    return absl::AlreadyExistsError(
        absl::StrCat(name, " is open on this shard with another recipe"));
  }
  auto dataset = std::make_shared<Dataset>();
  {
    absl::MutexLock lock(&mutex_);
    dataset->id = next_id_++;
  }
  dataset->name = name;
  dataset->recipe = recipe;
  d2g::store::v1::DatasetRow row;
  row.set_name(name);
  *row.mutable_recipe() = recipe;
  D2G_RETURN_IF_ERROR(engine_->CreateDataset(dataset->id));
  Commit commit;
  commit.rows.emplace_back(EncodeRowKey({RowKind::kDataset, dataset->id}), row.SerializeAsString());
  D2G_RETURN_IF_ERROR(engine_->Write(commit));
  absl::MutexLock lock(&mutex_);
  datasets_[name] = dataset;
  return absl::OkStatus();
}

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
  const int64_t shard = block % dataset.recipe.shard_count();
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
  const auto it = dataset->blocks.find(range.begin() / dataset->recipe.block_size());
  if (it == dataset->blocks.end()) {
    return Bitmap(range.end() - range.begin()).bytes();
  }
  if (range_epoch < it->second->state.range_epoch()) {
    return absl::FailedPreconditionError(
        absl::StrCat(name, ": range ", RangeText(range), " was invalidated: its epoch is ",
                     it->second->state.range_epoch(), ", the append carries ", range_epoch));
  }
  return it->second->state.Presence(range);
}

absl::Status TripleStore::CheckTriple(const Dataset& dataset, const Triple& triple) const {
  const auto context = [&] { return absl::StrCat(dataset.name, " index ", triple.index(), ": "); };
  if (static_cast<int64_t>(triple.x().size()) != LatentBytes(dataset.recipe)) {
    return absl::InvalidArgumentError(absl::StrCat(context(), "x has ", triple.x().size(),
                                                   " bytes; the recipe's latent has ",
                                                   LatentBytes(dataset.recipe)));
  }
  if (triple.prompt_index() < 0 || triple.prompt_index() >= dataset.recipe.prompt_count()) {
    return absl::InvalidArgumentError(absl::StrCat(context(), "prompt_index is ",
                                                   triple.prompt_index(), "; the prompt list has ",
                                                   dataset.recipe.prompt_count()));
  }
  if (LatentChecksum(triple.x()) != triple.x_checksum()) {
    if (options_.metrics != nullptr) options_.metrics->checksum_failures.Increment();
    return absl::DataLossError(absl::StrCat(context(), "x does not match x_checksum on arrival"));
  }
  const int64_t element = FindNonFinite(triple.x(), dataset.recipe.storage_dtype());
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
    return absl::FailedPreconditionError(
        absl::StrCat(name, ": range ", RangeText(span), " was invalidated: its epoch is ",
                     state.range_epoch(), ", the append carries ", range_epoch));
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
    D2G_RETURN_IF_ERROR(d2g::common::Annotate(WriteTimed(commit), name));
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

absl::StatusOr<d2g::store::v1::SealRangeResponse> TripleStore::Seal(
    const std::string& name, const IndexRange& range, const d2g::store::v1::Producer& producer) {
  D2G_ASSIGN_OR_RETURN(const std::shared_ptr<Dataset> dataset, Find(name));
  D2G_RETURN_IF_ERROR(CheckRange(*dataset, range));
  BlockChange change(dataset.get());
  D2G_RETURN_IF_ERROR(change.Begin(range.begin()));
  BlockState& state = change.state();
  for (int64_t index = range.begin(); index < range.end(); ++index) {
    if (!state.IsPresent(index)) {
      return absl::FailedPreconditionError(absl::StrCat(
          name, ": range ", RangeText(range), " cannot be sealed: index ", index, " is missing"));
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
    d2g::store::v1::SealRow seal;
    *seal.mutable_range() = range;
    *seal.mutable_producer() = producer;
    seal.mutable_seal_time()->set_seconds(absl::ToUnixSeconds(options_.clock->Now()));
    Commit commit;
    commit.rows.emplace_back(EncodeRowKey(change.row_key()), state.ToRow().SerializeAsString());
    commit.rows.emplace_back(EncodeRowKey({RowKind::kSeal, dataset->id, range.begin()}),
                             seal.SerializeAsString());
    D2G_RETURN_IF_ERROR(d2g::common::Annotate(WriteTimed(commit), name));
    change.Apply();
    if (options_.metrics != nullptr) {
      options_.metrics->sealed_triples.Increment(static_cast<double>(newly_sealed));
    }
  }
  d2g::store::v1::SealRangeResponse response;
  *response.mutable_sealed()->mutable_range() = range;
  response.mutable_sealed()->set_digest(digest);
  absl::MutexLock lock(&dataset->mutex);
  response.set_dataset_sealed_count(dataset->sealed_count);
  response.set_dataset_digest(dataset->sealed_digest);
  return response;
}

absl::StatusOr<Triple> TripleStore::ReadFrom(const Dataset& dataset, int64_t index) const {
  const absl::Duration start = options_.clock->SteadyNow();
  bool present = false;
  if (index >= 0) {
    absl::MutexLock lock(&dataset.mutex);
    const auto it = dataset.blocks.find(index / dataset.recipe.block_size());
    present = it != dataset.blocks.end() && it->second->state.IsPresent(index);
  }
  const std::string context = absl::StrCat(dataset.name, " index ", index);
  if (!present) return absl::NotFoundError(absl::StrCat(context, " is absent"));
  const auto value = engine_->ReadValue(dataset.id, index);
  absl::StatusOr<Triple> triple =
      value.ok() ? DecodeTriple(*value, index, dataset.recipe) : value.status();
  if (absl::IsNotFound(triple.status())) {
    triple = absl::DataLossError("its value is gone");
  }
  StoreMetrics* const metrics = options_.metrics;
  if (!triple.ok()) {
    if (metrics != nullptr && absl::IsDataLoss(triple.status())) {
      metrics->checksum_failures.Increment();
    }
    return d2g::common::Annotate(triple.status(), context);
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

absl::StatusOr<d2g::store::v1::ListSealedRangesResponse> TripleStore::ListSealed(
    const std::string& name) const {
  D2G_ASSIGN_OR_RETURN(const std::shared_ptr<Dataset> dataset, Find(name));
  d2g::store::v1::ListSealedRangesResponse response;
  absl::MutexLock lock(&dataset->mutex);
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

absl::StatusOr<d2g::store::v1::VerifyDatasetResponse::Summary> TripleStore::Verify(
    const std::string& name,
    absl::FunctionRef<bool(int64_t index, const std::string& reason)> finding,
    absl::FunctionRef<bool()> go_on) const {
  D2G_ASSIGN_OR_RETURN(const std::shared_ptr<Dataset> dataset, Find(name));
  std::vector<BlockState> blocks;
  {
    absl::MutexLock lock(&dataset->mutex);
    for (const auto& [number, block] : dataset->blocks) blocks.push_back(block->state);
  }
  d2g::store::v1::VerifyDatasetResponse::Summary summary;
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
  D2G_RETURN_IF_ERROR(d2g::common::Annotate(WriteTimed(commit), name));
  change.Apply();
  const auto removed = static_cast<int64_t>(commit.removed_values.size());
  if (options_.metrics != nullptr) {
    options_.metrics->invalidated_triples.Increment(static_cast<double>(removed));
  }
  return removed;
}

absl::Status TripleStore::Drop(const std::string& name) {
  const CatalogTurn turn(this);
  const auto found = Find(name);
  if (absl::IsNotFound(found.status())) return absl::OkStatus();
  Dataset& dataset = **found;
  d2g::store::v1::DatasetRow row;
  row.set_name(name);
  *row.mutable_recipe() = dataset.recipe;
  row.set_dropping(true);
  Commit commit;
  commit.rows.emplace_back(EncodeRowKey({RowKind::kDataset, dataset.id}), row.SerializeAsString());
  D2G_RETURN_IF_ERROR(d2g::common::Annotate(engine_->Write(commit), name));
  {
    absl::MutexLock lock(&dataset.mutex);
    dataset.dropped = true;
    const auto quiet = [&dataset]() ABSL_SHARED_LOCKS_REQUIRED(dataset.mutex) {
      return dataset.changing == 0;
    };
    dataset.mutex.Await(absl::Condition(&quiet));
  }
  {
    absl::MutexLock lock(&mutex_);
    datasets_.erase(name);
  }
  return d2g::common::Annotate(RemoveDataset(dataset.id), name);
}

// The dataset's own row goes last: until then a restart finds it and goes on.
absl::Status TripleStore::RemoveDataset(DatasetId id) {
  D2G_RETURN_IF_ERROR(engine_->DropDataset(id));
  for (const RowKind kind : {RowKind::kBlock, RowKind::kChecksum, RowKind::kSeal}) {
    const std::string prefix = RowPrefix(kind, id);
    D2G_RETURN_IF_ERROR(engine_->RemoveRows(prefix, PrefixEnd(prefix)));
  }
  Commit commit;
  commit.removed_rows.push_back(EncodeRowKey({RowKind::kDataset, id}));
  return engine_->Write(commit);
}

std::vector<d2g::store::v1::GetStatsResponse::DatasetStats> TripleStore::Stats() const {
  std::vector<std::shared_ptr<Dataset>> datasets;
  {
    absl::MutexLock lock(&mutex_);
    for (const auto& [name, dataset] : datasets_) datasets.push_back(dataset);
  }
  std::vector<d2g::store::v1::GetStatsResponse::DatasetStats> all;
  for (const auto& dataset : datasets) {
    d2g::store::v1::GetStatsResponse::DatasetStats stats;
    stats.set_dataset(dataset->name);
    absl::MutexLock lock(&dataset->mutex);
    stats.set_present_count(dataset->present_count);
    stats.set_sealed_count(dataset->sealed_count);
    stats.set_digest(dataset->sealed_digest);
    stats.set_stored_bytes(dataset->present_count * LatentBytes(dataset->recipe));
    stats.set_repeated_appends(dataset->repeated_appends);
    all.push_back(std::move(stats));
  }
  std::sort(all.begin(), all.end(),
            [](const auto& a, const auto& b) { return a.dataset() < b.dataset(); });
  return all;
}

int64_t TripleStore::FreeBytes() const {
  const auto space = engine_->GetSpace();
  return space.ok() ? space->free_bytes : 0;
}

absl::Status TripleStore::Ready() const {
  D2G_RETURN_IF_ERROR(engine_->Health());
  return CheckSpace(0);
}

}  // namespace d2g::store

// TripleStore: its datasets, from the disk at start, opened and dropped.
#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "google/protobuf/util/message_differencer.h"
#include "services/common/grpc_status.h"
#include "services/common/status_macros.h"
#include "services/dataset/latent_codec.h"
#include "services/store/triple_store.h"

namespace d2g::store {

using common::FieldViolation;
using common::v1::DatasetRecipe;

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

bool IsIdCharacter(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_';
}

absl::Status CheckRecipe(const std::string& name, const DatasetRecipe& recipe, int shard) {
  std::vector<FieldViolation> violations;
  absl::string_view id = name;
  if (!absl::ConsumePrefix(&id, "datasets/") || id.empty() || name.size() > kMaxNameBytes ||
      !std::all_of(id.begin(), id.end(), IsIdCharacter)) {
    violations.push_back(
        {"key.dataset", absl::StrCat("'", absl::CHexEscape(name.substr(0, kMaxNameBytes)),
                                     "' is not datasets/{id} of at most ", kMaxNameBytes,
                                     " bytes, where the id is made of letters, digits, - and _")});
  }
  CheckBetween("recipe.latent_channels", recipe.latent_channels(), 1, kMaxLatentSide, &violations);
  CheckBetween("recipe.latent_height", recipe.latent_height(), 1, kMaxLatentSide, &violations);
  CheckBetween("recipe.latent_width", recipe.latent_width(), 1, kMaxLatentSide, &violations);
  CheckBetween("recipe.block_size", recipe.block_size(), kMinBlockSize, kMaxBlockSize, &violations);
  CheckBetween("recipe.shard_count", recipe.shard_count(), shard + 1, 65536, &violations);
  if (dataset::BytesOf(recipe.storage_dtype()) == 0) {
    violations.push_back({"recipe.storage_dtype", "is none of fp16, bf16, fp32"});
  }
  if (violations.empty() && dataset::LatentBytes(recipe) > kMaxLatentBytes) {
    violations.push_back({"recipe", absl::StrCat("a latent has ", dataset::LatentBytes(recipe),
                                                 " bytes; the limit is ", kMaxLatentBytes)});
  }
  return violations.empty() ? absl::OkStatus() : common::BadRequest(violations);
}

absl::Status NotOpen(const std::string& name) {
  return absl::NotFoundError(absl::StrCat(name, " is not open on this shard"));
}

}  // namespace

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

absl::Status TripleStore::CheckEmpty() const {
  std::string first;
  D2G_RETURN_IF_ERROR(engine_->ScanRows("", "", [&first](absl::string_view key, absl::string_view) {
    first = absl::CHexEscape(key);
    return false;
  }));
  if (first.empty()) return absl::OkStatus();
  D2G_ASSIGN_OR_RETURN(const Engine::Space space, engine_->GetSpace());
  return absl::FailedPreconditionError(absl::StrCat(
      space.path, " is a database, but not a d2g store: it has the row \"", first, "\""));
}

absl::Status TripleStore::LoadIdentity() {
  const std::string key = EncodeRowKey({RowKind::kStore});
  const auto bytes = engine_->ReadRow(key);
  if (absl::IsNotFound(bytes.status())) {
    D2G_RETURN_IF_ERROR(CheckEmpty());
    v1::StoreRow row;
    row.set_format(kStoreFormat);
    row.set_uuid(RandomUuid());
    row.set_shard(options_.shard);
    uuid_ = row.uuid();
    Commit commit;
    commit.rows.emplace_back(key, row.SerializeAsString());
    return engine_->Write(commit);
  }
  D2G_RETURN_IF_ERROR(bytes.status());
  v1::StoreRow row;
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
  std::map<DatasetId, v1::DatasetRow> rows;
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
      D2G_RETURN_IF_ERROR(RemoveFromDisk(id));
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

absl::Status TripleStore::LoadDataset(DatasetId id, const v1::DatasetRow& row) {
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
    v1::BlockRow block;
    if (!decoded.ok() || !block.ParseFromArray(value.data(), static_cast<int>(value.size()))) {
      bad = absl::DataLossError(absl::StrCat(row.name(), ": a block row is unreadable"));
      return false;
    }
    auto state = BlockState::FromRow(decoded->number * size, size, block);
    if (!state.ok()) {
      bad = common::Annotate(state.status(), row.name());
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
  if (it == datasets_.end()) return NotOpen(name);
  return it->second;
}

absl::Status TripleStore::OpenDataset(const std::string& name, const DatasetRecipe& recipe) {
  D2G_RETURN_IF_ERROR(CheckRecipe(name, recipe, options_.shard));
  const CatalogTurn turn(this);
  const auto known = Find(name);
  if (known.ok()) {
    bool dropped = false;
    {
      absl::MutexLock lock(&(*known)->mutex);
      dropped = (*known)->dropped;
    }
    if (!dropped) {
      if (google::protobuf::util::MessageDifferencer::Equals((*known)->recipe, recipe)) {
        return absl::OkStatus();
      }
      return absl::AlreadyExistsError(
          absl::StrCat(name, " is open on this shard with another recipe"));
    }
    // An earlier drop failed halfway.
    if (const absl::Status removed = RemoveDataset(**known); !removed.ok()) {
      return absl::UnavailableError(
          absl::StrCat(name, " is being dropped from this shard: ", removed.message()));
    }
  }
  auto dataset = std::make_shared<Dataset>();
  {
    absl::MutexLock lock(&mutex_);
    dataset->id = next_id_++;
  }
  dataset->name = name;
  dataset->recipe = recipe;
  v1::DatasetRow row;
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

absl::Status TripleStore::Drop(const std::string& name) {
  const CatalogTurn turn(this);
  const auto found = Find(name);
  if (absl::IsNotFound(found.status())) return absl::OkStatus();
  Dataset& dataset = **found;
  v1::DatasetRow row;
  row.set_name(name);
  *row.mutable_recipe() = dataset.recipe;
  row.set_dropping(true);
  Commit commit;
  commit.rows.emplace_back(EncodeRowKey({RowKind::kDataset, dataset.id}), row.SerializeAsString());
  D2G_RETURN_IF_ERROR(common::Annotate(engine_->Write(commit), name));
  {
    absl::MutexLock lock(&dataset.mutex);
    dataset.dropped = true;
    const auto quiet = [&dataset]() ABSL_SHARED_LOCKS_REQUIRED(dataset.mutex) {
      return dataset.changing == 0;
    };
    dataset.mutex.Await(absl::Condition(&quiet));
  }
  return common::Annotate(RemoveDataset(dataset), name);
}

// Until everything of it is gone it stays known, so that a repeat goes on.
absl::Status TripleStore::RemoveDataset(const Dataset& dataset) {
  D2G_RETURN_IF_ERROR(RemoveFromDisk(dataset.id));
  absl::MutexLock lock(&mutex_);
  datasets_.erase(dataset.name);
  return absl::OkStatus();
}

// The dataset's own row goes last: until then a restart finds it and goes on.
absl::Status TripleStore::RemoveFromDisk(DatasetId id) {
  D2G_RETURN_IF_ERROR(engine_->DropDataset(id));
  for (const RowKind kind : {RowKind::kBlock, RowKind::kChecksum, RowKind::kSeal}) {
    const std::string prefix = RowPrefix(kind, id);
    D2G_RETURN_IF_ERROR(engine_->RemoveRows(prefix, PrefixEnd(prefix)));
  }
  Commit commit;
  commit.removed_rows.push_back(EncodeRowKey({RowKind::kDataset, id}));
  return engine_->Write(commit);
}

std::vector<v1::GetStatsResponse::DatasetStats> TripleStore::Stats() const {
  std::vector<std::shared_ptr<Dataset>> datasets;
  {
    absl::MutexLock lock(&mutex_);
    for (const auto& [name, dataset] : datasets_) datasets.push_back(dataset);
  }
  std::vector<v1::GetStatsResponse::DatasetStats> all;
  for (const auto& dataset : datasets) {
    v1::GetStatsResponse::DatasetStats stats;
    stats.set_dataset(dataset->name);
    absl::MutexLock lock(&dataset->mutex);
    if (dataset->dropped) {
      all.push_back(std::move(stats));
      continue;
    }
    stats.set_present_count(dataset->present_count);
    stats.set_sealed_count(dataset->sealed_count);
    stats.set_digest(dataset->sealed_digest);
    stats.set_stored_bytes(dataset->present_count * dataset::LatentBytes(dataset->recipe));
    stats.set_repeated_appends(dataset->repeated_appends);
    all.push_back(std::move(stats));
  }
  std::sort(all.begin(), all.end(),
            [](const auto& a, const auto& b) { return a.dataset() < b.dataset(); });
  return all;
}

}  // namespace d2g::store

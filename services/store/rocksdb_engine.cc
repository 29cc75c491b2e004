#include "services/store/rocksdb_engine.h"

#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <map>
#include <system_error>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "rocksdb/cache.h"
#include "rocksdb/db.h"
#include "rocksdb/filter_policy.h"
#include "rocksdb/listener.h"
#include "rocksdb/table.h"
#include "services/common/file_io.h"
#include "services/common/log.h"
#include "services/common/status_macros.h"

namespace d2g::store {
namespace {

constexpr int64_t kRowBufferBytes = 16 << 20;
constexpr int64_t kMinBufferBytes = 1 << 20;
constexpr int64_t kMaxGroupBytes = 16 << 20;

rocksdb::Slice ToSlice(absl::string_view bytes) {
  return rocksdb::Slice(bytes.data(), bytes.size());
}
absl::string_view ToView(const rocksdb::Slice& slice) {
  return absl::string_view(slice.data(), slice.size());
}

// Remembers that RocksDB stopped taking writes; its properties do not show it.
class HealthListener final : public rocksdb::EventListener {
 public:
  void OnBackgroundError(rocksdb::BackgroundErrorReason, rocksdb::Status* error) override {
    {
      absl::MutexLock lock(&mutex_);
      error_ = error->ToString();
    }
    common::LogError("the database stopped taking writes", {{"error", error->ToString()}});
  }
  void OnErrorRecoveryEnd(const rocksdb::BackgroundErrorRecoveryInfo& info) override {
    if (!info.new_bg_error.ok()) return;
    {
      absl::MutexLock lock(&mutex_);
      error_.clear();
    }
    common::LogInfo("the database takes writes again");
  }
  std::string error() const {
    absl::MutexLock lock(&mutex_);
    return error_;
  }

 private:
  mutable absl::Mutex mutex_;
  std::string error_ ABSL_GUARDED_BY(mutex_);
};

absl::StatusOr<Engine::Space> SpaceOf(const std::string& folder) {
  struct statvfs volume = {};
  if (statvfs(folder.c_str(), &volume) != 0) {
    return common::ErrnoStatus(errno, folder, "cannot ask for free space");
  }
  const auto block = static_cast<int64_t>(volume.f_frsize);
  return Engine::Space{static_cast<int64_t>(volume.f_bavail) * block,
                       static_cast<int64_t>(volume.f_blocks) * block, folder};
}

absl::Status PrepareFolder(const std::string& folder) {
  if (folder.empty()) return absl::InvalidArgumentError("the data folder's name is empty");
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  std::error_code ignored;
  if (error && !std::filesystem::is_directory(folder, ignored)) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot make the data folder ", folder, ": ", error.message()));
  }
  // Asks the kernel, so that it also finds a read-only mount, without writing anything.
  if (access(folder.c_str(), W_OK | X_OK) != 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the data folder ", folder,
        " is not writable: ", std::error_code(errno, std::generic_category()).message()));
  }
  return absl::OkStatus();
}

class RocksDbEngine final : public Engine {
 public:
  explicit RocksDbEngine(RocksDbOptions options)
      : options_(std::move(options)), listener_(std::make_shared<HealthListener>()) {}

  ~RocksDbEngine() override {
    {
      absl::MutexLock lock(&mutex_);
      families_.clear();
    }
    rows_ = nullptr;
    if (db_ == nullptr) return;
    const rocksdb::Status status = db_->Close();
    if (!status.ok()) {
      common::LogWarn("closing the database failed", {{"error", status.ToString()}});
    }
  }

  absl::Status Open() {
    D2G_RETURN_IF_ERROR(PrepareFolder(options_.folder));
    D2G_ASSIGN_OR_RETURN(const Space space, SpaceOf(options_.folder));
    options_.write_buffer_bytes =
        std::max(kMinBufferBytes, std::min(options_.write_buffer_bytes, space.total_bytes / 32));
    cache_ = rocksdb::NewLRUCache(static_cast<size_t>(options_.cache_bytes));
    std::vector<std::string> names;
    std::error_code error;
    const bool exists =
        std::filesystem::exists(std::filesystem::path(options_.folder) / "CURRENT", error);
    if (error) {
      return absl::FailedPreconditionError(absl::StrCat("cannot look into the data folder ",
                                                        options_.folder, ": ", error.message(),
                                                        " (its file CURRENT)"));
    }
    if (exists) {
      const rocksdb::Status status =
          rocksdb::DB::ListColumnFamilies(DatabaseOptions(), options_.folder, &names);
      if (!status.ok()) return OpenFailure(status);
    } else {
      names.push_back(rocksdb::kDefaultColumnFamilyName);
    }
    std::vector<rocksdb::ColumnFamilyDescriptor> descriptors;
    for (const std::string& name : names) {
      const bool is_rows = name == rocksdb::kDefaultColumnFamilyName;
      if (!is_rows && ParseColumnFamilyName(name) == 0) {
        return absl::FailedPreconditionError(absl::StrCat(
            options_.folder, " is a database, but not a d2g store: column family ", name));
      }
      descriptors.emplace_back(name, is_rows ? RowOptions() : ValueOptions());
    }
    std::vector<rocksdb::ColumnFamilyHandle*> handles;
    rocksdb::DB* db = nullptr;
    const rocksdb::Status status =
        rocksdb::DB::Open(DatabaseOptions(), options_.folder, descriptors, &handles, &db);
    if (!status.ok()) return OpenFailure(status);
    db_.reset(db);
    absl::MutexLock lock(&mutex_);
    for (size_t i = 0; i < names.size(); ++i) {
      if (names[i] == rocksdb::kDefaultColumnFamilyName) {
        rows_ = Own(handles[i]);
      } else {
        families_[ParseColumnFamilyName(names[i])] = Own(handles[i]);
      }
    }
    return absl::OkStatus();
  }

  std::vector<DatasetId> Datasets() const override {
    absl::MutexLock lock(&mutex_);
    std::vector<DatasetId> ids;
    for (const auto& [id, family] : families_) ids.push_back(id);
    return ids;
  }

  absl::Status CreateDataset(DatasetId dataset) override {
    if (Find(dataset) != nullptr) return absl::OkStatus();
    rocksdb::ColumnFamilyHandle* handle = nullptr;
    const rocksdb::Status status =
        db_->CreateColumnFamily(ValueOptions(), ColumnFamilyName(dataset), &handle);
    if (!status.ok()) return Convert(status);
    absl::MutexLock lock(&mutex_);
    families_[dataset] = Own(handle);
    return absl::OkStatus();
  }

  absl::Status DropDataset(DatasetId dataset) override {
    std::shared_ptr<rocksdb::ColumnFamilyHandle> family;
    {
      absl::MutexLock lock(&mutex_);
      const auto it = families_.find(dataset);
      if (it == families_.end()) return absl::OkStatus();
      family = it->second;
    }
    // Known until it is gone, so that a repeat goes on.
    D2G_RETURN_IF_ERROR(Convert(db_->DropColumnFamily(family.get())));
    {
      absl::MutexLock lock(&mutex_);
      families_.erase(dataset);
    }
    // Logs hold the dataset's latest triples until the rows written with them are in a table.
    const rocksdb::Status flushed = db_->Flush(rocksdb::FlushOptions(), rows_.get());
    if (!flushed.ok()) {
      common::LogWarn("a log may be kept for longer", {{"error", flushed.ToString()}});
    }
    return absl::OkStatus();
  }

  absl::Status Write(const Commit& commit) override {
    size_t bytes = 0;
    for (const Commit::Value& value : commit.values) bytes += value.header.size() + value.x.size();
    rocksdb::WriteBatch batch(bytes + 64 * (commit.values.size() + commit.rows.size()) + 4096);
    const auto family = Find(commit.dataset);
    if (commit.dataset != 0 && family == nullptr) {
      return absl::InternalError(absl::StrCat("no column family for dataset ", commit.dataset));
    }
    rocksdb::Status status;
    for (const Commit::Value& value : commit.values) {
      const std::string key = EncodeTripleKey(value.index);
      const rocksdb::Slice key_part(key);
      const rocksdb::Slice parts[2] = {ToSlice(value.header), ToSlice(value.x)};
      status =
          batch.Put(family.get(), rocksdb::SliceParts(&key_part, 1), rocksdb::SliceParts(parts, 2));
      if (!status.ok()) return Convert(status);
    }
    for (const int64_t index : commit.removed_values) {
      status = batch.Delete(family.get(), EncodeTripleKey(index));
      if (!status.ok()) return Convert(status);
    }
    for (const auto& [key, value] : commit.rows) {
      status = batch.Put(rows_.get(), key, value);
      if (!status.ok()) return Convert(status);
    }
    for (const std::string& key : commit.removed_rows) {
      status = batch.Delete(rows_.get(), key);
      if (!status.ok()) return Convert(status);
    }
    return Convert(db_->Write(SyncedWrite(), &batch));
  }

  absl::StatusOr<std::string> ReadValue(DatasetId dataset, int64_t index) const override {
    const auto family = Find(dataset);
    if (family == nullptr) {
      return absl::NotFoundError(absl::StrCat("no column family for dataset ", dataset));
    }
    std::string value;
    D2G_RETURN_IF_ERROR(
        Convert(db_->Get(rocksdb::ReadOptions(), family.get(), EncodeTripleKey(index), &value)));
    return value;
  }

  absl::StatusOr<std::string> ReadRow(const std::string& key) const override {
    std::string value;
    D2G_RETURN_IF_ERROR(Convert(db_->Get(rocksdb::ReadOptions(), rows_.get(), key, &value)));
    return value;
  }

  absl::Status ScanRows(
      const std::string& begin, const std::string& end,
      absl::FunctionRef<bool(absl::string_view key, absl::string_view value)> row) const override {
    rocksdb::ReadOptions read;
    const rocksdb::Slice upper(end);
    if (!end.empty()) read.iterate_upper_bound = &upper;
    const std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(read, rows_.get()));
    for (it->Seek(begin); it->Valid(); it->Next()) {
      if (!row(ToView(it->key()), ToView(it->value()))) break;
    }
    return Convert(it->status());
  }

  absl::Status RemoveRows(const std::string& begin, const std::string& end) override {
    return Convert(db_->DeleteRange(SyncedWrite(), rows_.get(), begin, end));
  }

  absl::StatusOr<Space> GetSpace() const override { return SpaceOf(options_.folder); }

  absl::Status Health() const override {
    const std::string error = listener_->error();
    if (error.empty()) return absl::OkStatus();
    return absl::UnavailableError(
        absl::StrCat("the store at ", options_.folder, " does not take writes: ", error));
  }

 private:
  static rocksdb::WriteOptions SyncedWrite() {
    rocksdb::WriteOptions write;
    write.sync = true;
    return write;
  }

  rocksdb::DBOptions DatabaseDefaults() const {
    rocksdb::DBOptions options;
    options.create_if_missing = true;
    options.paranoid_checks = true;
    // Survives kill -9; refuses damage in the middle of the log instead of dropping what follows.
    options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
    options.track_and_verify_wals_in_manifest = true;
    // A start on a full disk must not need space.
    options.avoid_flush_during_recovery = true;
    options.max_total_wal_size = static_cast<uint64_t>(options_.max_log_bytes);
    // The leader of a group takes in others of up to 1/8 of this.
    options.max_write_batch_group_size_bytes = kMaxGroupBytes;
    options.bytes_per_sync = 1 << 20;
    options.max_background_jobs = 2;
    options.max_open_files = 1024;
    options.info_log_level = rocksdb::WARN_LEVEL;
    options.keep_log_file_num = 5;
    options.max_log_file_size = 8 << 20;
    options.stats_dump_period_sec = 0;
    options.listeners.push_back(listener_);
    return options;
  }
  rocksdb::Options DatabaseOptions() const {
    return rocksdb::Options(DatabaseDefaults(), RowOptions());
  }

  rocksdb::ColumnFamilyOptions RowOptions() const {
    rocksdb::BlockBasedTableOptions table;
    table.block_cache = cache_;
    table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
    rocksdb::ColumnFamilyOptions options;
    options.write_buffer_size =
        static_cast<size_t>(std::min(kRowBufferBytes, options_.write_buffer_bytes));
    options.compression = rocksdb::kNoCompression;
    options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
    return options;
  }

  rocksdb::ColumnFamilyOptions ValueOptions() const {
    rocksdb::ColumnFamilyOptions options = RowOptions();
    options.write_buffer_size = static_cast<size_t>(options_.write_buffer_bytes);
    options.enable_blob_files = true;
    options.min_blob_size = 0;
    options.blob_file_size = static_cast<uint64_t>(options_.blob_file_bytes);
    options.blob_compression_type = rocksdb::kNoCompression;
    options.enable_blob_garbage_collection = false;
    return options;
  }

  std::shared_ptr<rocksdb::ColumnFamilyHandle> Own(rocksdb::ColumnFamilyHandle* handle) const {
    rocksdb::DB* const db = db_.get();
    return {handle, [db](rocksdb::ColumnFamilyHandle* owned) {
              db->DestroyColumnFamilyHandle(owned).PermitUncheckedError();
            }};
  }

  std::shared_ptr<rocksdb::ColumnFamilyHandle> Find(DatasetId dataset) const {
    absl::MutexLock lock(&mutex_);
    const auto it = families_.find(dataset);
    return it == families_.end() ? nullptr : it->second;
  }

  absl::Status OpenFailure(const rocksdb::Status& status) const {
    const std::string text = status.ToString();
    if (absl::StrContains(text, "LOCK") &&
        (absl::StrContains(text, "temporarily unavailable") ||
         absl::StrContains(text, "lock hold by current process"))) {
      return absl::FailedPreconditionError(absl::StrCat(
          "the data folder ", options_.folder, " is in use by another process (LOCK is held)"));
    }
    if (status.IsCorruption()) {
      return absl::DataLossError(absl::StrCat("the data folder ", options_.folder,
                                              " is damaged and was not opened: ", text));
    }
    return absl::FailedPreconditionError(
        absl::StrCat("cannot open the data folder ", options_.folder, ": ", text));
  }

  absl::Status Convert(const rocksdb::Status& status) const {
    if (status.ok()) return absl::OkStatus();
    const std::string text = status.ToString();
    if (status.IsNotFound()) return absl::NotFoundError(text);
    if (status.IsNoSpace()) {
      const auto space = SpaceOf(options_.folder);
      return absl::ResourceExhaustedError(
          absl::StrCat("the disk of ", options_.folder, " is full (",
                       space.ok() ? space->free_bytes : 0, " bytes free): ", text));
    }
    if (status.IsCorruption()) return absl::DataLossError(text);
    return absl::InternalError(absl::StrCat(options_.folder, ": ", text));
  }

  RocksDbOptions options_;
  const std::shared_ptr<HealthListener> listener_;
  std::shared_ptr<rocksdb::Cache> cache_;
  std::unique_ptr<rocksdb::DB> db_;
  // Handles die before the database.
  std::shared_ptr<rocksdb::ColumnFamilyHandle> rows_;
  mutable absl::Mutex mutex_;
  std::map<DatasetId, std::shared_ptr<rocksdb::ColumnFamilyHandle>> families_
      ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> OpenRocksDbEngine(const RocksDbOptions& options) {
  auto engine = std::make_unique<RocksDbEngine>(options);
  D2G_RETURN_IF_ERROR(engine->Open());
  return engine;
}

}  // namespace d2g::store

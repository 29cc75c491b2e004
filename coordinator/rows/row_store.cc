#include "coordinator/rows/row_store.h"

#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <limits>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "coordinator/rows/row_keys.h"
#include "d2g/coordinator/rows/v1/rows.pb.h"
#include "rocksdb/db.h"
#include "rocksdb/options.h"
#include "rocksdb/write_batch.h"
#include "services/common/file_io.h"
#include "services/common/status_macros.h"

namespace d2g::coordinator {
namespace {

// These names are on disk: do not change them.
constexpr char kBlobsFamily[] = "blobs";
constexpr char kAsidePrefix[] = "aside/";
// Written into the meta row; this name and number are on disk.
constexpr int32_t kFormat = 1;

rocksdb::Slice ToSlice(absl::string_view text) { return {text.data(), text.size()}; }

absl::Status FromRocks(const rocksdb::Status& status, absl::string_view what) {
  if (status.ok()) return absl::OkStatus();
  const std::string message = absl::StrCat(what, ": ", status.ToString());
  if (status.IsNoSpace()) return absl::ResourceExhaustedError(message);
  if (status.IsCorruption()) return absl::DataLossError(message);
  return absl::InternalError(message);
}

absl::Status OpenFailure(const std::string& folder, const rocksdb::Status& status) {
  const std::string text = status.ToString();
  if (absl::StrContains(text, "LOCK") &&
      (absl::StrContains(text, "temporarily unavailable") ||
       absl::StrContains(text, "lock hold by current process"))) {
    return absl::FailedPreconditionError(
        absl::StrCat("data folder ", folder, " is in use by another process (", text, ")"));
  }
  if (absl::StrContains(text, "Read-only file system")) {
    return absl::FailedPreconditionError(
        absl::StrCat("data folder ", folder, " cannot be written: ", text));
  }
  return FromRocks(status, absl::StrCat("data folder ", folder, " cannot be opened"));
}

// Makes the folder and proves that it can be written before RocksDB touches anything.
absl::Status PrepareFolder(const std::string& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) {
    return absl::FailedPreconditionError(
        absl::StrCat("data folder ", folder, " cannot be made: ", error.message()));
  }
  if (access(folder.c_str(), R_OK | W_OK | X_OK) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("data folder ", folder, " cannot be written: ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

absl::Status NotOurs(const std::string& folder, absl::string_view what) {
  return absl::FailedPreconditionError(absl::StrCat(
      "data folder ", folder, " holds something else than a coordinator's rows: ", what,
      "; it was left as it is. Give --data-dir a folder of its own"));
}

// The first row of the database, as it may be shown; nothing when it has none.
std::optional<std::string> FirstRow(rocksdb::DB* db, rocksdb::ColumnFamilyHandle* rows) {
  const std::unique_ptr<rocksdb::Iterator> it(db->NewIterator(rocksdb::ReadOptions(), rows));
  it->SeekToFirst();
  if (!it->Valid()) return std::nullopt;
  return absl::StrCat("a database with the row \"",
                      absl::CHexEscape(absl::string_view(it->key().data(), it->key().size())),
                      "\"");
}

// Refuses somebody else's database before anything is written to it. `options` as it will be
// opened with.
absl::Status CheckOwner(const rocksdb::DBOptions& options, const std::string& folder) {
  std::error_code error;
  if (!std::filesystem::exists(std::filesystem::path(folder) / "CURRENT", error)) {
    return absl::OkStatus();
  }
  std::vector<std::string> families;
  rocksdb::Status status = rocksdb::DB::ListColumnFamilies(options, folder, &families);
  if (!status.ok()) return OpenFailure(folder, status);
  bool has_blobs = false;
  for (const std::string& family : families) {
    if (family == kBlobsFamily) {
      has_blobs = true;
    } else if (family != rocksdb::kDefaultColumnFamilyName) {
      return NotOurs(folder, absl::StrCat("a database with the column family \"", family, "\""));
    }
  }
  if (has_blobs) return absl::OkStatus();
  // Ours when it is empty: a first start that was killed halfway.
  rocksdb::DB* db = nullptr;
  status = rocksdb::DB::OpenForReadOnly(rocksdb::Options(options, {}), folder, &db);
  if (!status.ok()) return OpenFailure(folder, status);
  const std::unique_ptr<rocksdb::DB> owned(db);
  const std::optional<std::string> row = FirstRow(db, db->DefaultColumnFamily());
  return row.has_value() ? NotOurs(folder, *row) : absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<RowStore>> RowStore::Open(const std::string& folder,
                                                         int32_t shard_count) {
  D2G_RETURN_IF_ERROR(PrepareFolder(folder));
  rocksdb::DBOptions options;
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  // Survives kill -9 at any moment and refuses rot in the middle of the log.
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  options.paranoid_checks = true;
  options.max_total_wal_size = 64 << 20;
  options.keep_log_file_num = 4;
  options.max_open_files = 256;
  options.max_background_jobs = 2;
  rocksdb::ColumnFamilyOptions rows;
  rows.write_buffer_size = 16 << 20;
  rocksdb::ColumnFamilyOptions blobs;
  blobs.write_buffer_size = 16 << 20;
  blobs.enable_blob_files = true;
  blobs.min_blob_size = 64 << 10;

  std::unique_ptr<RowStore> store(new RowStore());
  store->folder_ = folder;
  D2G_RETURN_IF_ERROR(store->CheckSpace());
  D2G_RETURN_IF_ERROR(CheckOwner(options, folder));
  rocksdb::DB* db = nullptr;
  const rocksdb::Status opened = rocksdb::DB::Open(
      options, folder, {{rocksdb::kDefaultColumnFamilyName, rows}, {kBlobsFamily, blobs}},
      &store->handles_, &db);
  if (!opened.ok()) return OpenFailure(folder, opened);
  store->db_.reset(db);

  rows::v1::MetaRow meta;
  std::string value;
  const rocksdb::Status got = db->Get(rocksdb::ReadOptions(), store->handles_[0], kMetaKey, &value);
  if (got.ok()) {
    if (!meta.ParseFromString(value)) {
      return absl::DataLossError(absl::StrCat(
          "data folder ", folder,
          ": the meta row is damaged; without it the others cannot be read: restore the folder "
          "from a copy, or start with an empty one (docs/operations.md, coordinator's volume "
          "lost)"));
    }
    if (meta.format() != kFormat) {
      return absl::FailedPreconditionError(absl::StrCat(
          "data folder ", folder, " has format ", meta.format(), "; this build reads ", kFormat));
    }
    if (meta.shard_count() != shard_count) {
      return absl::FailedPreconditionError(
          absl::StrCat("data folder ", folder, " was made for ", meta.shard_count(),
                       " shards; it cannot be served with --shards ", shard_count));
    }
  } else if (!got.IsNotFound()) {
    return FromRocks(got, absl::StrCat("data folder ", folder, ": meta row"));
  } else if (const auto row = FirstRow(db, store->handles_[0]); row.has_value()) {
    return NotOurs(folder, *row);
  }
  meta.set_format(kFormat);
  meta.set_shard_count(shard_count);
  meta.set_incarnation(meta.incarnation() + 1);
  D2G_RETURN_IF_ERROR(store->Commit({{{kMetaKey, meta.SerializeAsString()}}}));
  store->incarnation_ = meta.incarnation();
  return store;
}

RowStore::~RowStore() {
  if (db_ == nullptr) return;
  for (rocksdb::ColumnFamilyHandle* handle : handles_) db_->DestroyColumnFamilyHandle(handle);
  db_->Close();
}

absl::Status RowStore::Scan(
    absl::FunctionRef<absl::Status(absl::string_view key, const std::string& value)> visit) const {
  rocksdb::ReadOptions options;
  options.verify_checksums = true;
  const std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(options, handles_[0]));
  for (it->SeekToFirst(); it->Valid(); it->Next()) {
    D2G_RETURN_IF_ERROR(
        visit(absl::string_view(it->key().data(), it->key().size()), it->value().ToString()));
  }
  return FromRocks(it->status(), "scanning rows");
}

// A log write that runs into the end of the volume leaves RocksDB in a state that only a restart
// heals (and that its own assertions end the process for), so it must not come to that.
absl::Status RowStore::CheckSpace() const {
  struct statvfs info = {};
  if (statvfs(folder_.c_str(), &info) != 0) {
    return common::ErrnoStatus(errno, folder_, "free space");
  }
  const int64_t free_bytes =
      static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
  if (free_bytes >= kMinFreeBytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("data folder ", folder_, ": No space left on device: ", free_bytes,
                   " bytes are free, ", kMinFreeBytes, " are needed"));
}

absl::Status RowStore::Commit(const std::vector<RowChanges>& groups) {
  D2G_RETURN_IF_ERROR(CheckSpace());
  rocksdb::WriteBatch batch;
  for (const RowChanges& changes : groups) {
    for (const RowChange& change : changes) {
      if (change.set_aside) {
        batch.Put(handles_[1], absl::StrCat(kAsidePrefix, NumberId(incarnation_), "/", change.key),
                  *change.value);
        batch.Delete(handles_[0], change.key);
      } else if (change.value.has_value()) {
        batch.Put(handles_[0], change.key, *change.value);
      } else {
        batch.Delete(handles_[0], change.key);
      }
    }
  }
  rocksdb::WriteOptions options;
  options.sync = true;
  return FromRocks(db_->Write(options, &batch), "writing rows");
}

absl::StatusOr<int64_t> RowStore::CountSetAside() const {
  const std::unique_ptr<rocksdb::Iterator> it(
      db_->NewIterator(rocksdb::ReadOptions(), handles_[1]));
  int64_t count = 0;
  for (it->Seek(kAsidePrefix); it->Valid() && it->key().starts_with(kAsidePrefix); it->Next()) {
    ++count;
  }
  D2G_RETURN_IF_ERROR(FromRocks(it->status(), "counting rows that were set aside"));
  return count;
}

absl::Status RowStore::PutBlob(absl::string_view key, absl::string_view value) {
  D2G_RETURN_IF_ERROR(CheckSpace());
  rocksdb::WriteOptions options;
  options.sync = true;
  return FromRocks(db_->Put(options, handles_[1], ToSlice(key), ToSlice(value)), "writing a blob");
}

absl::StatusOr<std::string> RowStore::GetBlob(absl::string_view key) const {
  std::string value;
  const rocksdb::Status status =
      db_->Get(rocksdb::ReadOptions(), handles_[1], ToSlice(key), &value);
  if (status.IsNotFound()) return absl::NotFoundError(absl::StrCat("blob ", key, " is absent"));
  D2G_RETURN_IF_ERROR(FromRocks(status, absl::StrCat("blob ", key)));
  return value;
}

}  // namespace d2g::coordinator

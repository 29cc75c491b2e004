#include "worker/rank/audit_log.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/common/file_io.h"
#include "services/common/output_folder.h"
#include "services/common/status_macros.h"

namespace d2g::rank {

absl::StatusOr<std::unique_ptr<AuditLog>> AuditLog::Open(const std::string& output_dir,
                                                         int64_t generation, int rank) {
  const std::string folder = common::AuditFolder(output_dir);
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) return common::ErrnoStatus(error.value(), folder, "create folder");
  std::string path = absl::StrCat(folder, "/generation-", generation, "-rank-", rank, ".jsonl");
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) return common::ErrnoStatus(errno, path, "open");
  auto log = std::unique_ptr<AuditLog>(new AuditLog(fd, std::move(path)));
  D2G_RETURN_IF_ERROR(common::SyncFolder(folder));
  D2G_RETURN_IF_ERROR(common::SyncFolder(output_dir));
  return log;
}

AuditLog::~AuditLog() { close(fd_); }

absl::Status AuditLog::Append(int64_t step, const RankBatch& batch) {
  const auto index_of = [](std::string* out, const auto& entry) {
    absl::StrAppend(out, entry.index);
  };
  const std::string line =
      absl::StrCat("{\"step\":", step, ",\"epoch\":", batch.cursor.epoch,
                   ",\"batch\":", batch.cursor.batch, ",\"position\":", batch.first_position,
                   ",\"indices\":[", absl::StrJoin(batch.samples, ",", index_of), "],\"skipped\":[",
                   absl::StrJoin(batch.skipped, ",", index_of), "]}\n");
  const ssize_t written = write(fd_, line.data(), line.size());
  if (written == static_cast<ssize_t>(line.size())) return absl::OkStatus();
  return common::ErrnoStatus(written < 0 ? errno : ENOSPC, path_, "append");
}

absl::Status AuditLog::Sync() {
  if (fdatasync(fd_) != 0) return common::ErrnoStatus(errno, path_, "fdatasync");
  return absl::OkStatus();
}

}  // namespace d2g::rank

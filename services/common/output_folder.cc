#include "services/common/output_folder.h"

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "nlohmann/json.hpp"
#include "services/common/checkpoint_files.h"
#include "services/common/file_io.h"
#include "services/common/status_macros.h"

namespace d2g::common {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kVersion = 1;
constexpr char kJobPrefix[] = "jobs/";
constexpr int64_t kMaxJsonBytes = 16 << 20;
constexpr const char* kFolders[] = {"checkpoints", "evaluation", "export", "audit"};

std::string In(const std::string& folder, const std::string& name) {
  return absl::StrCat(folder, "/", name);
}

// "jobs/ID", which also is a folder's name below replaced/.
bool IsJobName(absl::string_view job) {
  const bool has_prefix = absl::ConsumePrefix(&job, kJobPrefix);
  return has_prefix && !job.empty() && job != "." && job != ".." && !absl::StrContains(job, '/');
}

// Whether there is anything, be it a link to nothing. A path that the system does not let be looked
// at (a volume that is away) is an error, not an absence.
absl::StatusOr<bool> Exists(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::symlink_status(path, error);
  if (status.type() == fs::file_type::not_found) return false;
  if (error) return ErrnoStatus(error.value(), path, "cannot be looked at");
  return true;
}

// The "job" of a JSON file, empty where it has none; nothing where there is no file or one of
// another kind. An error when the system does not let it be read.
absl::StatusOr<std::optional<std::string>> JobIn(const std::string& file) {
  const absl::StatusOr<std::string> text = ReadFile(file, kMaxJsonBytes);
  if (absl::IsNotFound(text.status()) || absl::IsInvalidArgument(text.status()) ||
      absl::IsResourceExhausted(text.status())) {
    return std::nullopt;
  }
  if (!text.ok()) return text.status();
  const json content = json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!content.is_object()) return std::nullopt;
  const auto job = content.find("job");
  return job != content.end() && job->is_string() ? job->get<std::string>() : "";
}

// The name of something in `path`: of the first entry of a folder, "" for an empty one.
absl::StatusOr<std::string> FirstEntry(const std::string& path) {
  std::error_code error;
  const fs::directory_iterator entry(path, error);
  if (error) return ErrnoStatus(error.value(), path, "cannot be listed");
  return entry == fs::directory_iterator() ? "" : entry->path().filename().string();
}

absl::StatusOr<OutputOwner> ReadMark(const std::string& file) {
  D2G_ASSIGN_OR_RETURN(const bool exists, Exists(file));
  if (!exists) return OutputOwner{};
  D2G_ASSIGN_OR_RETURN(const std::optional<std::string> job, JobIn(file));
  if (!job || !IsJobName(*job)) {
    return absl::FailedPreconditionError(
        absl::StrCat(file, " does not say whose folder it is: {\"job\": \"jobs/ID\"} is expected"));
  }
  return OutputOwner{*job, file};
}

// What the files of a folder without a mark say.
absl::StatusOr<OutputOwner> OwnerByFiles(const std::string& output_dir, const std::string& asking) {
  OutputOwner owner;
  const auto look = [&](const std::string& file) -> absl::Status {
    D2G_ASSIGN_OR_RETURN(const std::optional<std::string> job, JobIn(file));
    const bool better = owner.source.empty() || owner.job.empty() || (job && *job == asking);
    if (job && better) owner = {IsJobName(*job) ? *job : "", file};
    return absl::OkStatus();
  };
  D2G_RETURN_IF_ERROR(look(In(ExportFolder(output_dir), kLineageFile)));
  const std::string checkpoints = CheckpointsFolder(output_dir);
  std::error_code error;
  // Not a range-for, whose ++ throws.
  fs::directory_iterator entry(checkpoints, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    D2G_RETURN_IF_ERROR(look((entry->path() / kCheckpointStateFile).string()));
  }
  const bool none =
      error == std::errc::no_such_file_or_directory || error == std::errc::not_a_directory;
  if (error && !none) return ErrnoStatus(error.value(), checkpoints, "cannot be listed");
  return owner;
}

absl::Status Foreign(const std::string& path, const std::string& shown) {
  D2G_ASSIGN_OR_RETURN(const std::string first, FirstEntry(path));
  if (first.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(shown, " holds ", first,
                   ", and nothing says that a job of d2g wrote it: move it away, or choose another "
                   "output_dir"));
}

absl::Status NotAFolder(const std::string& shown) {
  return absl::FailedPreconditionError(
      absl::StrCat(shown, " is not a folder: move it away, or choose another output_dir"));
}

absl::Status OwnedByAnother(const std::string& output_dir, const OutputOwner& owner,
                            const std::string& job) {
  return absl::FailedPreconditionError(absl::StrCat(output_dir, " holds the output of ",
                                                    owner.Describe(), ", and ", job,
                                                    " may not write there"));
}

absl::Status MakeFolders(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  return error ? ErrnoStatus(error.value(), path, "cannot make folder") : absl::OkStatus();
}

// The mark goes last: until then a repeat finds the owner, and sets the rest aside.
absl::Status SetAside(const std::string& output_dir, const OutputOwner& owner) {
  const std::string target = ReplacedFolder(output_dir, owner.job);
  D2G_RETURN_IF_ERROR(MakeFolders(target));
  std::vector<std::string> names(std::begin(kFolders), std::end(kFolders));
  names.push_back(kOwnerFile);
  for (const std::string& name : names) {
    const std::string from = In(output_dir, name), to = In(target, name);
    D2G_ASSIGN_OR_RETURN(const bool is_there, Exists(from));
    if (!is_there) continue;
    D2G_ASSIGN_OR_RETURN(const bool is_taken, Exists(to));
    if (is_taken) {
      return absl::FailedPreconditionError(absl::StrCat(
          from, " cannot be set aside: ", to, " is there already; move one of them away"));
    }
    if (rename(from.c_str(), to.c_str()) != 0) {
      return ErrnoStatus(errno, from, absl::StrCat("cannot be moved to ", to));
    }
  }
  D2G_RETURN_IF_ERROR(SyncFolder(target));
  return SyncFolder(output_dir);
}

// Whoever is first wins.
absl::Status WriteMark(const std::string& output_dir, const std::string& job) {
  static std::atomic<int> counter{0};
  const std::string file = In(output_dir, kOwnerFile);
  const std::string draft = absl::StrCat(file, ".new-", getpid(), "-", counter++);
  D2G_RETURN_IF_ERROR(
      WriteFileAtomically(draft, json({{"job", job}, {"version", kVersion}}).dump() + "\n"));
  int failed = link(draft.c_str(), file.c_str()) == 0 ? 0 : errno;
  // Not every file system has hard links.
  if (failed == EPERM || failed == EOPNOTSUPP || failed == ENOSYS) {
    failed = rename(draft.c_str(), file.c_str()) == 0 ? 0 : errno;
  }
  unlink(draft.c_str());
  if (failed == 0) return SyncFolder(output_dir);
  if (failed != EEXIST) return ErrnoStatus(failed, file, "cannot be made");
  D2G_ASSIGN_OR_RETURN(const OutputOwner owner, ReadMark(file));
  return owner.job == job ? absl::OkStatus() : OwnedByAnother(output_dir, owner, job);
}

}  // namespace

std::string CheckpointsFolder(const std::string& output_dir) { return In(output_dir, kFolders[0]); }
std::string EvaluationFolder(const std::string& output_dir) { return In(output_dir, kFolders[1]); }
std::string ExportFolder(const std::string& output_dir) { return In(output_dir, kFolders[2]); }
std::string AuditFolder(const std::string& output_dir) { return In(output_dir, kFolders[3]); }

std::string ReplacedFolder(const std::string& output_dir, const std::string& job) {
  const absl::string_view id = absl::StripPrefix(job, kJobPrefix);
  return absl::StrCat(output_dir, "/replaced/", id.empty() ? "unnamed" : id);
}

std::vector<std::string> FollowedFolders(const std::string& output_dir) {
  return {CheckpointsFolder(output_dir), EvaluationFolder(output_dir), AuditFolder(output_dir)};
}

std::string OutputOwner::Describe() const {
  return absl::StrCat(job.empty() ? "an earlier job" : job, " (as ", source, " says)");
}

absl::StatusOr<OutputOwner> FindOutputOwner(const std::string& output_dir,
                                            const std::string& asking) {
  D2G_ASSIGN_OR_RETURN(OutputOwner owner, ReadMark(In(output_dir, kOwnerFile)));
  if (!owner.source.empty()) return owner;
  D2G_ASSIGN_OR_RETURN(owner, OwnerByFiles(output_dir, asking));
  if (!owner.source.empty()) return owner;
  for (const char* name : kFolders) {
    const std::string folder = In(output_dir, name);
    std::error_code error;
    const fs::file_status status = fs::status(folder, error);
    if (status.type() == fs::file_type::not_found) continue;
    if (error) return ErrnoStatus(error.value(), folder, "cannot be looked at");
    if (!fs::is_directory(status)) return NotAFolder(folder);
    D2G_RETURN_IF_ERROR(Foreign(folder, folder));
  }
  return owner;
}

OutputOwner FindOutputAround(const std::string& output_dir) {
  for (fs::path path = output_dir; path != path.parent_path();) {
    path = path.parent_path();
    const absl::StatusOr<OutputOwner> owner = ReadMark((path / kOwnerFile).string());
    if (owner.ok() && !owner->source.empty()) return *owner;
  }
  return {};
}

absl::Status ClaimOutput(const std::string& output_dir, const std::string& job, bool take_over) {
  if (!IsJobName(job)) {
    return absl::InvalidArgumentError(absl::StrCat("job \"", job, "\" is not \"jobs/ID\""));
  }
  D2G_RETURN_IF_ERROR(MakeFolders(output_dir));
  D2G_ASSIGN_OR_RETURN(const OutputOwner owner, FindOutputOwner(output_dir, job));
  if (owner.job == job && owner.source == In(output_dir, kOwnerFile)) return absl::OkStatus();
  if (!owner.source.empty() && owner.job != job) {
    if (!take_over) return OwnedByAnother(output_dir, owner, job);
    D2G_RETURN_IF_ERROR(SetAside(output_dir, owner));
  }
  return WriteMark(output_dir, job);
}

absl::Status CheckReplaceable(const std::string& path, const std::string& job,
                              const std::string& shown) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found) return absl::OkStatus();
  if (error) return ErrnoStatus(error.value(), path, "cannot be looked at");
  if (!fs::is_directory(status)) return NotAFolder(shown);
  D2G_ASSIGN_OR_RETURN(const std::optional<std::string> maker, JobIn(In(path, kLineageFile)));
  if (!maker) return Foreign(path, shown);
  if (maker->empty() || *maker == job) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(shown, " is an export of ", *maker, ", not of ", job, ": move it away"));
}

}  // namespace d2g::common

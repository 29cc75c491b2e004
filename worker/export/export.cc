#include "worker/export/export.h"

#include <fcntl.h>
#include <google/protobuf/util/json_util.h>
#include <stdio.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <system_error>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "model/files/error.h"
#include "model/folder/model_folder.h"
#include "services/common/digest.h"
#include "services/common/file_io.h"
#include "services/common/file_manifest.h"
#include "services/common/output_folder.h"
#include "services/common/status_macros.h"
#include "services/common/version.h"
#include "services/files/file_writer.h"
#include "worker/common/torch_status.h"
#include "worker/export/student_folder.h"

namespace d2g::exporter {
namespace {

namespace fs = std::filesystem;
using coordinator::v1::ExportRecord;
using coordinator::v1::ExportWork;
using nlohmann::json;

// Beside the export while it is made, followed by a nonce: attempts do not meet.
constexpr char kPartSuffix[] = ".part-";
constexpr size_t kNonceDigits = 16;
// A part that was begun this long ago belongs to nobody any more.
constexpr auto kStaleAge = std::chrono::hours(24);
constexpr size_t kCopyBytes = 1 << 20;

absl::Status FromErrorCode(const std::error_code& error, const std::string& path,
                           const std::string& what) {
  return common::ErrnoStatus(error.value(), path, what);
}

// Removes a folder when it goes out of scope, unless that is called off.
class ScopedFolder {
 public:
  explicit ScopedFolder(std::string path) : path_(std::move(path)) {}
  void Keep() { path_.clear(); }
  ~ScopedFolder() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  ScopedFolder(const ScopedFolder&) = delete;
  ScopedFolder& operator=(const ScopedFolder&) = delete;

 private:
  std::string path_;
};

absl::Status MakeFolders(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  return error ? FromErrorCode(error, path, "make folder") : absl::OkStatus();
}

std::string NewPart(const std::string& export_path) {
  std::random_device random;
  return absl::StrCat(export_path, kPartSuffix, absl::Hex(random(), absl::kZeroPad8),
                      absl::Hex(random(), absl::kZeroPad8));
}

bool IsPart(const std::string& name, const std::string& prefix) {
  return name.starts_with(prefix) && name.size() == prefix.size() + kNonceDigits &&
         std::all_of(name.begin() + static_cast<ptrdiff_t>(prefix.size()), name.end(),
                     absl::ascii_isxdigit);
}

// Removes what attempts that died long ago have left.
void RemoveStaleParts(const std::string& export_path) {
  const fs::path path(export_path);
  const std::string prefix = path.filename().string() + kPartSuffix;
  std::error_code error;
  // Not a range-for, whose ++ throws.
  fs::directory_iterator entry(path.parent_path(), error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    if (!IsPart(entry->path().filename().string(), prefix)) continue;
    std::error_code ignored;
    const auto begun = fs::last_write_time(entry->path(), ignored);
    if (ignored || fs::file_time_type::clock::now() - begun < kStaleAge) continue;
    fs::remove_all(entry->path(), ignored);
  }
}

absl::Status CopyFile(const std::string& from, const std::string& to, const common::Tick& tick) {
  std::ifstream in(from, std::ios::binary);
  if (!in) return common::ErrnoStatus(errno, from, "read");
  try {
    files::FileWriter out(to);
    std::string buffer(kCopyBytes, '\0');
    while (in) {
      in.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
      if (in.bad()) return common::ErrnoStatus(errno, from, "read");
      out.Append(buffer.data(), static_cast<size_t>(in.gcount()));
      if (!tick()) return absl::CancelledError("stopped while copying " + from);
    }
    out.Commit();
  } catch (const std::system_error& error) {
    return common::FromSystemError(error);
  }
  std::error_code error;
  // Exported folders are for all to read, whatever the teacher's mode bits say.
  fs::permissions(to,
                  fs::perms::owner_read | fs::perms::owner_write | fs::perms::group_read |
                      fs::perms::others_read,
                  error);
  return error ? FromErrorCode(error, to, "set permissions") : absl::OkStatus();
}

// Every folder below and at `root`, deepest last to root.
absl::Status SyncFolders(const std::string& root) {
  std::error_code error;
  fs::recursive_directory_iterator entry(root, error);
  for (; !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
    const bool is_folder = entry->is_directory(error);
    if (error) break;
    if (is_folder) D2G_RETURN_IF_ERROR(common::SyncFolder(entry->path()));
  }
  if (error) return FromErrorCode(error, root, "list");
  return common::SyncFolder(root);
}

absl::StatusOr<json> ToJson(const google::protobuf::Message& message) {
  std::string text;
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  const auto status = google::protobuf::util::MessageToJsonString(message, &text, options);
  if (!status.ok()) return absl::InternalError(std::string(status.message()));
  return json::parse(text);
}

// Where the student comes from, with sorted keys and no times.
absl::StatusOr<std::string> Lineage(const ExportWork& work, const StudentFolder& folder,
                                    const std::string& prediction_type) {
  D2G_ASSIGN_OR_RETURN(const std::string manifest,
                       common::ReadFile(work.checkpoint_path() + "/" + common::kManifestFile));
  json lineage;
  lineage["version"] = common::Version();
  lineage["job"] = work.job();
  lineage["dataset"]["name"] = work.dataset();
  D2G_ASSIGN_OR_RETURN(lineage["dataset"]["recipe"], ToJson(work.recipe()));
  lineage["checkpoint"] = {{"step", work.checkpoint_step()},
                           {"manifest_digest", common::Xxh3Hex128(manifest)}};
  lineage["t0"] = folder.student.t0;
  lineage["parametrization"] = folder.student.parametrization;
  lineage["prediction_type"] = prediction_type;
  lineage["num_inference_steps"] = 1;
  lineage["guidance_scale"] = 1;
  D2G_ASSIGN_OR_RETURN(lineage["spec"], ToJson(work.spec()));
  return lineage.dump(2) + "\n";
}

// In one step, so that neither ever holds nothing.
absl::Status Exchange(const std::string& part, const std::string& path) {
  if (renameat2(AT_FDCWD, part.c_str(), AT_FDCWD, path.c_str(), RENAME_EXCHANGE) == 0) {
    return absl::OkStatus();
  }
  return common::ErrnoStatus(errno, path, "exchange with the new export");
}

// Puts the folder `part`, which `cleanup` removes, in the place of `path`, where nothing else than
// an export of `job` may stand.
absl::Status Replace(const std::string& part, const std::string& path, const std::string& job,
                     ScopedFolder* cleanup) {
  D2G_RETURN_IF_ERROR(common::CheckReplaceable(path, job, path));
  std::error_code error;
  bool exists = fs::exists(fs::symlink_status(path, error));
  if (!exists) {
    fs::rename(part, path, error);
    // Another attempt was faster.
    exists = error == std::errc::directory_not_empty || error == std::errc::file_exists;
    if (error && !exists) return FromErrorCode(error, path, "rename");
  }
  if (exists) {
    D2G_RETURN_IF_ERROR(Exchange(part, path));
    // What stood there may have changed since it was looked at: nothing else is put there now.
    if (const absl::Status found = common::CheckReplaceable(part, job, path); !found.ok()) {
      if (const absl::Status back = Exchange(part, path); !back.ok()) {
        cleanup->Keep();
        return common::Annotate(back, absl::StrCat(found.message(), "; it is in ", part, " now"));
      }
      return found;
    }
    fs::remove_all(part, error);
    if (error) return FromErrorCode(error, part, "remove the old export");
  }
  return common::SyncFolder(fs::path(path).parent_path());
}

// One attempt.
class Attempt {
 public:
  Attempt(const ExportWork& work, lease::TaskContext* context)
      : work_(work), context_(context), part_(NewPart(work.export_path())), cleanup_(part_) {}

  absl::StatusOr<ExportRecord> Run();

 private:
  // Looks at what there is, and makes the plan and the texts.
  absl::Status Load();
  absl::Status Write();
  absl::Status Verify();

  bool Tick() {
    context_->AddProgress();
    return !context_->cancelled();
  }
  void Progress() {
    if (!Tick()) throw model::Error("stopped");
  }
  // Calls work(progress), which may throw as LibTorch does.
  template <typename Work>
  absl::Status Torch(const Work& work) {
    const absl::Status status = JudgeMissingInput(CatchTorch([&] { work([this] { Progress(); }); }),
                                                  {folder_.teacher_path});
    const absl::Status cancelled = context_->CheckCancelled();
    return cancelled.ok() ? status : cancelled;
  }

  const ExportWork& work_;
  lease::TaskContext* const context_;
  const common::Tick tick_ = [this] { return Tick(); };
  const std::string part_;
  ScopedFolder cleanup_;
  StudentFolder folder_;
  std::vector<ExportedFile> files_;
  std::map<std::string, std::string> texts_;
};

absl::Status Attempt::Load() {
  D2G_RETURN_IF_ERROR(common::ClaimOutput(work_.spec().output_dir(), work_.job()));
  const std::string& path = work_.export_path();
  D2G_RETURN_IF_ERROR(common::CheckReplaceable(path, work_.job(), path));
  D2G_ASSIGN_OR_RETURN(const model::ModelFolder teacher,
                       model::FindModelFolder(work_.spec().teacher().path(),
                                              work_.recipe().teacher_digest(), tick_));
  // Training's checks end with the commit: bytes that a disk changed since would be shipped.
  D2G_RETURN_IF_ERROR(
      common::CheckFiles(work_.checkpoint_path(), distil::StudentCheckpoint::Files(), tick_));
  folder_.teacher_path = teacher.path;
  folder_.teacher_files = teacher.files;
  folder_.latent_height = work_.recipe().latent_height();
  folder_.latent_width = work_.recipe().latent_width();
  const absl::Status loaded = CatchTorch([&] {
    folder_.student = distil::StudentCheckpoint::Load(work_.checkpoint_path());
    texts_ = MakeTexts(folder_);
    files_ = FilesToTake(folder_);
  });
  D2G_RETURN_IF_ERROR(JudgeMissingInput(loaded, {folder_.teacher_path}));
  if (folder_.student.step != work_.checkpoint_step()) {
    return absl::InvalidArgumentError(absl::StrCat(work_.checkpoint_path(), " holds step ",
                                                   folder_.student.step, ", expected ",
                                                   work_.checkpoint_step()));
  }
  const json scheduler = json::parse(texts_.at("scheduler/scheduler_config.json"));
  D2G_ASSIGN_OR_RETURN(texts_[common::kLineageFile],
                       Lineage(work_, folder_, scheduler.at("prediction_type").get<std::string>()));
  return absl::OkStatus();
}

absl::Status Attempt::Write() {
  const int64_t total = static_cast<int64_t>(files_.size() + texts_.size()) + 1;
  int64_t done = 0;
  const auto count_file = [&] {
    context_->AddProgress();
    context_->SetDone(++done, total);
    return context_->CheckCancelled();
  };
  D2G_RETURN_IF_ERROR(MakeFolders(part_ + "/unet"));
  for (const ExportedFile& file : files_) {
    const std::string to = part_ + "/" + file.to;
    D2G_RETURN_IF_ERROR(MakeFolders(fs::path(to).parent_path()));
    if (file.completes_names) {
      D2G_RETURN_IF_ERROR(
          Torch([&](const auto& progress) { CompleteNames(folder_, file, part_, progress); }));
    } else {
      D2G_RETURN_IF_ERROR(CopyFile(folder_.teacher_path + "/" + file.from, to, tick_));
    }
    D2G_RETURN_IF_ERROR(count_file());
  }
  for (const auto& [file, text] : texts_) {
    D2G_RETURN_IF_ERROR(MakeFolders(fs::path(part_ + "/" + file).parent_path()));
    D2G_RETURN_IF_ERROR(common::WriteFileAtomically(part_ + "/" + file, text));
    D2G_RETURN_IF_ERROR(count_file());
  }
  D2G_RETURN_IF_ERROR(
      Torch([&](const auto& progress) { WriteUNet(folder_, part_ + "/unet", progress); }));
  return count_file();
}

absl::Status Attempt::Verify() {
  // The teacher's folder passed the same check: what fails here is this machine's writing.
  if (const auto found = model::InspectModelFolder(part_, tick_); !found.ok()) {
    D2G_RETURN_IF_ERROR(context_->CheckCancelled());
    return absl::InternalError(found.status().message());
  }
  D2G_RETURN_IF_ERROR(Torch([&](const auto& progress) { VerifyExport(folder_, part_, progress); }));
  context_->AddProgress();
  return SyncFolders(part_);
}

absl::StatusOr<ExportRecord> Attempt::Run() {
  context_->SetPhase("load");
  D2G_RETURN_IF_ERROR(Load());
  RemoveStaleParts(work_.export_path());
  context_->SetPhase("write");
  D2G_RETURN_IF_ERROR(Write());
  context_->SetPhase("verify");
  D2G_RETURN_IF_ERROR(Verify());
  ExportRecord record;
  D2G_ASSIGN_OR_RETURN(*record.mutable_digest(), model::FolderDigest(part_, tick_));
  record.set_path(work_.export_path());
  record.set_checkpoint_step(work_.checkpoint_step());
  D2G_RETURN_IF_ERROR(context_->CheckCancelled());
  D2G_RETURN_IF_ERROR(Replace(part_, work_.export_path(), work_.job(), &cleanup_));
  return record;
}

}  // namespace

absl::StatusOr<ExportRecord> RunExport(const ExportWork& work, lease::TaskContext* context) {
  return Attempt(work, context).Run();
}

ExportRunner::ExportRunner(common::PathPolicy paths) : paths_(std::move(paths)) {}

coordinator::v1::TaskKind ExportRunner::kind() const { return coordinator::v1::TASK_KIND_EXPORT; }

absl::Status ExportRunner::Run(const coordinator::v1::Task& task, lease::TaskContext* context,
                               coordinator::v1::CompleteTaskRequest* result) {
  D2G_RETURN_IF_ERROR(common::CheckJobPaths(paths_, task.export_().spec()));
  // An exception that left here would end the worker.
  D2G_ASSIGN_OR_RETURN(*result->mutable_export_(),
                       CatchTorch([&] { return RunExport(task.export_(), context); }));
  return absl::OkStatus();
}

}  // namespace d2g::exporter

#include "worker/export/export.h"

#include <fcntl.h>
#include <google/protobuf/util/json_util.h>
#include <stdio.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/digest.h"
#include "services/common/file_io.h"
#include "services/common/file_manifest.h"
#include "services/common/model_folder.h"
#include "services/common/status_macros.h"
#include "services/common/version.h"
#include "worker/export/student_folder.h"
#include "worker/model/files/error.h"
#include "worker/torch_status.h"

namespace d2g::exporter {
namespace {

namespace fs = std::filesystem;
using coordinator::v1::ExportRecord;
using coordinator::v1::ExportWork;
using nlohmann::json;

constexpr char kLineage[] = "d2g.json";
// Beside the export while it is made, followed by a nonce: attempts do not meet.
constexpr char kPartSuffix[] = ".part-";
// A part that was begun this long ago belongs to nobody any more.
constexpr auto kStaleAge = std::chrono::hours(24);
constexpr size_t kCopyBytes = 1 << 20;

absl::Status FromErrorCode(const std::error_code& error, const std::string& path,
                           const std::string& what) {
  return common::ErrnoStatus(error.value(), path, what);
}

// Removes a folder when it goes out of scope.
class ScopedFolder {
 public:
  explicit ScopedFolder(std::string path) : path_(std::move(path)) {}
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

absl::Status SyncFile(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return common::ErrnoStatus(errno, path, "open");
  const int failed = fsync(fd) == 0 ? 0 : errno;
  close(fd);
  return failed ? common::ErrnoStatus(failed, path, "fsync") : absl::OkStatus();
}

std::string NewPart(const std::string& export_path) {
  std::random_device random;
  return absl::StrCat(export_path, kPartSuffix, absl::Hex(random(), absl::kZeroPad8),
                      absl::Hex(random(), absl::kZeroPad8));
}

// Removes what attempts that died long ago have left.
void RemoveStaleParts(const std::string& export_path) {
  const fs::path path(export_path);
  const std::string prefix = path.filename().string() + kPartSuffix;
  std::error_code error;
  // Not a range-for, whose ++ throws.
  fs::directory_iterator entry(path.parent_path(), error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    if (!entry->path().filename().string().starts_with(prefix)) continue;
    std::error_code ignored;
    const auto begun = fs::last_write_time(entry->path(), ignored);
    if (ignored || fs::file_time_type::clock::now() - begun < kStaleAge) continue;
    fs::remove_all(entry->path(), ignored);
  }
}

absl::Status CopyBytes(const std::string& from, const std::string& to, const common::Tick& tick) {
  std::ifstream in(from, std::ios::binary);
  if (!in) return common::ErrnoStatus(errno, from, "read");
  std::ofstream out(to, std::ios::binary | std::ios::trunc);
  if (!out) return common::ErrnoStatus(errno, to, "write");
  std::string buffer(kCopyBytes, '\0');
  while (in) {
    in.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
    if (in.bad()) return common::ErrnoStatus(errno, from, "read");
    if (!out.write(buffer.data(), in.gcount())) return common::ErrnoStatus(errno, to, "write");
    if (!tick()) return absl::CancelledError("stopped while copying " + from);
  }
  out.close();
  if (!out) return common::ErrnoStatus(errno, to, "write");
  return absl::OkStatus();
}

absl::Status CopyFile(const std::string& from, const std::string& to, const common::Tick& tick) {
  D2G_RETURN_IF_ERROR(MakeFolders(fs::path(to).parent_path()));
  D2G_RETURN_IF_ERROR(CopyBytes(from, to, tick));
  std::error_code error;
  // Exported folders are for all to read, whatever the teacher's mode bits say.
  fs::permissions(to,
                  fs::perms::owner_read | fs::perms::owner_write | fs::perms::group_read |
                      fs::perms::others_read,
                  error);
  return SyncFile(to);
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

// Puts `part` in the place of `path`.
absl::Status Replace(const std::string& part, const std::string& path) {
  std::error_code error;
  bool exists = fs::exists(path, error);
  if (!exists) {
    fs::rename(part, path, error);
    // Another attempt was faster.
    exists = error == std::errc::directory_not_empty || error == std::errc::file_exists;
    if (error && !exists) return FromErrorCode(error, path, "rename");
  }
  if (exists) {
    // One step, so that the path never holds nothing.
    if (renameat2(AT_FDCWD, part.c_str(), AT_FDCWD, path.c_str(), RENAME_EXCHANGE) != 0) {
      return common::ErrnoStatus(errno, path, "exchange with the new export");
    }
    fs::remove_all(part, error);
    if (error) return FromErrorCode(error, part, "remove the old export");
  }
  return common::SyncFolder(fs::path(path).parent_path());
}

}  // namespace

absl::StatusOr<ExportRecord> RunExport(const ExportWork& work, agent::TaskContext* context) {
  const common::Tick tick = [context] {
    context->AddProgress();
    return !context->cancelled();
  };
  const auto progress = [&tick] {
    if (!tick()) throw model::Error("stopped");
  };
  const auto unless_cancelled = [context](const absl::Status& status) {
    const absl::Status cancelled = context->CheckCancelled();
    return cancelled.ok() ? status : cancelled;
  };
  context->SetPhase("load");
  D2G_ASSIGN_OR_RETURN(
      common::ModelFolder teacher,
      common::FindModelFolder(work.spec().teacher().path(), work.recipe().teacher_digest(), tick));
  // Training's checks end with the commit: bytes that a disk changed since would be shipped.
  D2G_RETURN_IF_ERROR(
      common::CheckFiles(work.checkpoint_path(), {"state.json", "ema.safetensors"}, tick));
  StudentFolder folder{.teacher_path = teacher.path, .teacher_files = teacher.files, .student = {}};
  std::map<std::string, std::string> texts;
  D2G_RETURN_IF_ERROR(JudgeMissingInput(CatchTorch([&] {
                                          folder.student = recipe::StudentCheckpoint::Load(
                                              work.checkpoint_path());
                                          texts = MakeConfigs(folder);
                                        }),
                                        {teacher.path}));
  if (folder.student.step != work.checkpoint_step()) {
    return absl::InvalidArgumentError(work.checkpoint_path() + " holds step " +
                                      std::to_string(folder.student.step) + ", expected " +
                                      std::to_string(work.checkpoint_step()));
  }
  const json scheduler = json::parse(texts.at("scheduler/scheduler_config.json"));
  D2G_ASSIGN_OR_RETURN(texts[kLineage],
                       Lineage(work, folder, scheduler.at("prediction_type").get<std::string>()));

  RemoveStaleParts(work.export_path());
  const std::string part = NewPart(work.export_path());
  const ScopedFolder cleanup(part);
  D2G_RETURN_IF_ERROR(MakeFolders(part + "/unet"));
  context->SetPhase("write");
  const std::vector<std::string> copies = FilesToCopy(folder);
  const int64_t total = static_cast<int64_t>(copies.size() + texts.size()) + 1;
  int64_t done = 0;
  auto count_file = [&] {
    context->AddProgress();
    context->SetDone(++done, total);
    return context->CheckCancelled();
  };
  for (const std::string& file : copies) {
    D2G_RETURN_IF_ERROR(CopyFile(teacher.path + "/" + file, part + "/" + file, tick));
    D2G_RETURN_IF_ERROR(count_file());
  }
  for (const auto& [file, text] : texts) {
    D2G_RETURN_IF_ERROR(MakeFolders(fs::path(part + "/" + file).parent_path()));
    D2G_RETURN_IF_ERROR(common::WriteFileAtomically(part + "/" + file, text));
    D2G_RETURN_IF_ERROR(count_file());
  }
  D2G_RETURN_IF_ERROR(unless_cancelled(JudgeMissingInput(
      CatchTorch([&] { WriteUNet(folder, part + "/unet", progress); }), {teacher.path})));
  D2G_RETURN_IF_ERROR(count_file());

  context->SetPhase("verify");
  // The teacher's folder passed the same check: what fails here is this machine's writing.
  if (const auto found = common::InspectModelFolder(part, tick); !found.ok()) {
    D2G_RETURN_IF_ERROR(context->CheckCancelled());
    return absl::InternalError(found.status().message());
  }
  D2G_RETURN_IF_ERROR(unless_cancelled(CatchTorch([&] { VerifyExport(folder, part, progress); })));
  context->AddProgress();
  D2G_RETURN_IF_ERROR(SyncFolders(part));
  ExportRecord record;
  D2G_ASSIGN_OR_RETURN(*record.mutable_digest(), common::FolderDigest(part, tick));
  record.set_path(work.export_path());
  record.set_checkpoint_step(work.checkpoint_step());
  D2G_RETURN_IF_ERROR(context->CheckCancelled());
  D2G_RETURN_IF_ERROR(Replace(part, work.export_path()));
  return record;
}

coordinator::v1::TaskKind ExportRunner::kind() const { return coordinator::v1::TASK_KIND_EXPORT; }

absl::Status ExportRunner::Run(const coordinator::v1::Task& task, agent::TaskContext* context,
                               coordinator::v1::CompleteTaskRequest* result) {
  // An exception that left here would end the worker.
  D2G_ASSIGN_OR_RETURN(*result->mutable_export_(),
                       CatchTorch([&] { return RunExport(task.export_(), context); }));
  return absl::OkStatus();
}

}  // namespace d2g::exporter

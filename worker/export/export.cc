#include "worker/export/export.h"

#include <fcntl.h>
#include <google/protobuf/util/json_util.h>
#include <stdio.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <system_error>
#include <utility>

#include "services/common/digest.h"
#include "services/common/file_io.h"
#include "services/common/model_folder.h"
#include "services/common/status_macros.h"
#include "services/common/version.h"
#include "worker/export/student_folder.h"
#include "worker/torch_status.h"

namespace d2g::exporter {
namespace {

namespace fs = std::filesystem;
using coordinator::v1::ExportRecord;
using coordinator::v1::ExportWork;
using nlohmann::json;

constexpr char kLineage[] = "d2g.json";
// Beside the export while it is made.
constexpr char kPartSuffix[] = ".part";

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

absl::Status CopyFile(const std::string& from, const std::string& to) {
  D2G_RETURN_IF_ERROR(MakeFolders(fs::path(to).parent_path()));
  std::error_code error;
  fs::copy_file(from, to, fs::copy_options::overwrite_existing, error);
  if (error) return FromErrorCode(error, to, "copy from " + from);
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
  for (const auto& entry : fs::recursive_directory_iterator(root, error)) {
    if (entry.is_directory()) D2G_RETURN_IF_ERROR(common::SyncFolder(entry.path()));
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
                       common::ReadFile(work.checkpoint_path() + "/manifest.json"));
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
  if (!fs::exists(path, error)) {
    fs::rename(part, path, error);
    if (error) return FromErrorCode(error, path, "rename");
  } else {
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
  context->SetPhase("load");
  D2G_ASSIGN_OR_RETURN(common::ModelFolder teacher,
                       common::InspectModelFolder(work.spec().teacher().path()));
  if (teacher.digest != work.recipe().teacher_digest()) {
    return absl::InvalidArgumentError("teacher folder " + teacher.path + " has digest " +
                                      teacher.digest + ", the dataset was made by " +
                                      work.recipe().teacher_digest());
  }
  context->AddProgress();
  StudentFolder folder{.teacher_path = teacher.path, .teacher_files = teacher.files, .student = {}};
  std::map<std::string, std::string> texts;
  D2G_RETURN_IF_ERROR(CatchTorch([&] {
    folder.student = recipe::StudentCheckpoint::Load(work.checkpoint_path());
    texts = MakeConfigs(folder);
  }));
  if (folder.student.step != work.checkpoint_step()) {
    return absl::InvalidArgumentError(work.checkpoint_path() + " holds step " +
                                      std::to_string(folder.student.step) + ", expected " +
                                      std::to_string(work.checkpoint_step()));
  }
  const json scheduler = json::parse(texts.at("scheduler/scheduler_config.json"));
  D2G_ASSIGN_OR_RETURN(texts[kLineage],
                       Lineage(work, folder, scheduler.at("prediction_type").get<std::string>()));

  const std::string part = work.export_path() + kPartSuffix;
  std::error_code error;
  fs::remove_all(part, error);
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
    D2G_RETURN_IF_ERROR(CopyFile(teacher.path + "/" + file, part + "/" + file));
    D2G_RETURN_IF_ERROR(count_file());
  }
  for (const auto& [file, text] : texts) {
    D2G_RETURN_IF_ERROR(MakeFolders(fs::path(part + "/" + file).parent_path()));
    D2G_RETURN_IF_ERROR(common::WriteFileAtomically(part + "/" + file, text));
    D2G_RETURN_IF_ERROR(count_file());
  }
  D2G_RETURN_IF_ERROR(CatchTorch([&] { WriteUNet(folder, part + "/unet"); }));
  D2G_RETURN_IF_ERROR(count_file());

  context->SetPhase("verify");
  D2G_RETURN_IF_ERROR(common::InspectModelFolder(part).status());
  D2G_RETURN_IF_ERROR(CatchTorch([&] { VerifyExport(folder, part); }));
  context->AddProgress();
  D2G_RETURN_IF_ERROR(SyncFolders(part));
  ExportRecord record;
  D2G_ASSIGN_OR_RETURN(*record.mutable_digest(), common::FolderDigest(part));
  record.set_path(work.export_path());
  record.set_checkpoint_step(work.checkpoint_step());
  D2G_RETURN_IF_ERROR(context->CheckCancelled());
  D2G_RETURN_IF_ERROR(Replace(part, work.export_path()));
  return record;
}

coordinator::v1::TaskKind ExportRunner::kind() const { return coordinator::v1::TASK_KIND_EXPORT; }

absl::Status ExportRunner::Run(const coordinator::v1::Task& task, agent::TaskContext* context,
                               coordinator::v1::CompleteTaskRequest* result) {
  D2G_ASSIGN_OR_RETURN(*result->mutable_export_(), RunExport(task.export_(), context));
  return absl::OkStatus();
}

}  // namespace d2g::exporter

#include "worker/rank/checkpoint.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "services/common/checkpoint_files.h"
#include "services/common/digest.h"
#include "services/common/file_io.h"
#include "services/common/file_manifest.h"
#include "services/common/log.h"
#include "services/common/status_macros.h"
#include "worker/common/torch_status.h"

namespace d2g::rank {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kVersion = 1;
constexpr char kFolderPrefix[] = "step-";
constexpr size_t kNonceDigits = 8;

std::string StateToJson(const CheckpointState& state) {
  const json out = {{"version", kVersion},
                    {"job", state.job},
                    {"step", state.step},
                    {"generation", state.generation},
                    {"world_size", state.world_size},
                    {"epoch", state.cursor.epoch},
                    {"batch", state.cursor.batch},
                    {"samples", state.samples},
                    {"skipped", state.skipped},
                    {"parameter_hash", state.parameter_hash},
                    {"t0", state.t0},
                    {"parametrization", state.parametrization},
                    {"prediction_type", state.prediction_type},
                    {"dataset", state.dataset},
                    {"teacher_digest", state.teacher_digest},
                    {"spec", json::parse(state.spec_json, nullptr, false)}};
  return out.dump(1) + "\n";
}

absl::StatusOr<CheckpointState> StateFromJson(const std::string& path, const std::string& text) {
  try {
    const json in = json::parse(text);
    if (in.at("version").get<int>() != kVersion) {
      return absl::FailedPreconditionError(absl::StrCat(
          path, ": version is ", in.at("version").dump(), ", this build reads ", kVersion));
    }
    CheckpointState state;
    state.job = in.value("job", "");
    in.at("step").get_to(state.step);
    in.at("generation").get_to(state.generation);
    in.at("world_size").get_to(state.world_size);
    in.at("epoch").get_to(state.cursor.epoch);
    in.at("batch").get_to(state.cursor.batch);
    in.at("samples").get_to(state.samples);
    in.at("skipped").get_to(state.skipped);
    in.at("parameter_hash").get_to(state.parameter_hash);
    in.at("t0").get_to(state.t0);
    in.at("parametrization").get_to(state.parametrization);
    in.at("prediction_type").get_to(state.prediction_type);
    in.at("dataset").get_to(state.dataset);
    in.at("teacher_digest").get_to(state.teacher_digest);
    state.spec_json = in.at("spec").dump();
    return state;
  } catch (const json::exception& error) {
    return absl::DataLossError(absl::StrCat(path, ": ", error.what()));
  }
}

std::string NewFolderName(const CheckpointState& state) {
  std::random_device random;
  return absl::StrCat(kFolderPrefix, state.step, "-g", state.generation, "-",
                      absl::Hex(random(), absl::kZeroPad8));
}

absl::StatusOr<WrittenCheckpoint> WriteFolder(const std::string& folder,
                                              const CheckpointState& state,
                                              const CheckpointTensors& tensors,
                                              const std::function<void()>& progress) {
  const common::Tick tick = [&progress] {
    if (progress) progress();
    return true;
  };
  std::vector<std::string> names = {common::kCheckpointStateFile};
  for (const auto& [stem, map] : tensors) {
    names.push_back(common::TensorFile(stem));
    const std::string path = absl::StrCat(folder, "/", names.back());
    D2G_RETURN_IF_ERROR(CatchTorch([&] { model::WriteSafetensors(path, map, {}, progress); }));
  }
  D2G_RETURN_IF_ERROR(common::WriteFileAtomically(
      absl::StrCat(folder, "/", common::kCheckpointStateFile), StateToJson(state)));
  D2G_ASSIGN_OR_RETURN(const common::FileManifest manifest,
                       common::DescribeFiles(folder, names, tick));
  const std::string text = common::FormatManifest(manifest);
  D2G_RETURN_IF_ERROR(
      common::WriteFileAtomically(absl::StrCat(folder, "/", common::kManifestFile), text));
  return WrittenCheckpoint{folder, common::Xxh3Hex128(text)};
}

// Folders that generations before `generation` wrote.
std::vector<fs::path> FoldersBefore(const std::string& checkpoints_dir, int64_t generation) {
  std::vector<fs::path> folders;
  std::error_code error;
  // Not a range-for, whose ++ throws.
  fs::directory_iterator entry(checkpoints_dir, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    const std::vector<std::string> parts = absl::StrSplit(entry->path().filename().string(), '-');
    int64_t step = 0, writer = 0;
    // As NewFolderName makes them: what is called otherwise is not a writer's.
    if (parts.size() == 4 && parts[0] == "step" && absl::SimpleAtoi(parts[1], &step) &&
        absl::StartsWith(parts[2], "g") && absl::SimpleAtoi(parts[2].substr(1), &writer) &&
        parts[3].size() == kNonceDigits && std::ranges::all_of(parts[3], absl::ascii_isxdigit) &&
        writer < generation) {
      folders.push_back(entry->path());
    }
  }
  return folders;
}

}  // namespace

absl::StatusOr<WrittenCheckpoint> WriteCheckpoint(const std::string& checkpoints_dir,
                                                  const CheckpointState& state,
                                                  const CheckpointTensors& tensors,
                                                  const std::function<void()>& progress) {
  const std::string folder = absl::StrCat(checkpoints_dir, "/", NewFolderName(state));
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return common::ErrnoStatus(error.value(), folder, "create folder");
  absl::StatusOr<WrittenCheckpoint> written = WriteFolder(folder, state, tensors, progress);
  absl::Status durable = written.status();
  if (durable.ok()) durable = common::SyncFolder(folder);
  if (durable.ok()) durable = common::SyncFolder(checkpoints_dir);
  if (durable.ok()) return written;
  fs::remove_all(folder, error);
  return durable;
}

absl::StatusOr<LoadedCheckpoint> ReadCheckpoint(const std::string& path,
                                                const std::string& manifest_digest) {
  const std::string manifest_path = absl::StrCat(path, "/", common::kManifestFile);
  D2G_ASSIGN_OR_RETURN(const std::string manifest_text, common::ReadFile(manifest_path));
  if (const std::string actual = common::Xxh3Hex128(manifest_text); actual != manifest_digest) {
    return absl::DataLossError(absl::StrCat(manifest_path, ": XXH3-128 is ", actual,
                                            ", the coordinator's record says ", manifest_digest));
  }
  D2G_ASSIGN_OR_RETURN(const common::FileManifest manifest,
                       common::ParseManifest(manifest_path, manifest_text));
  if (manifest.count(common::kCheckpointStateFile) == 0) {
    return absl::DataLossError(
        absl::StrCat(manifest_path, ": does not list ", common::kCheckpointStateFile));
  }
  LoadedCheckpoint loaded;
  for (const auto& [name, entry] : manifest) {
    const std::string file = absl::StrCat(path, "/", name);
    D2G_RETURN_IF_ERROR(common::CheckFile(path, name, manifest));
    if (name == common::kCheckpointStateFile) {
      D2G_ASSIGN_OR_RETURN(const std::string text, common::ReadFile(file));
      D2G_ASSIGN_OR_RETURN(loaded.state, StateFromJson(file, text));
    } else if (absl::EndsWith(name, common::kTensorFileSuffix)) {
      const std::string stem =
          name.substr(0, name.size() - (sizeof(common::kTensorFileSuffix) - 1));
      D2G_ASSIGN_OR_RETURN(loaded.tensors[stem],
                           CatchTorch([&] { return model::ReadSafetensors(file); }));
    }
  }
  return loaded;
}

absl::Status DeleteCheckpoint(const std::string& checkpoints_dir, const std::string& path) {
  const fs::path folder = fs::path(path).lexically_normal();
  if (folder.parent_path() != fs::path(checkpoints_dir).lexically_normal() ||
      !absl::StartsWith(folder.filename().string(), kFolderPrefix)) {
    return absl::InvalidArgumentError(
        absl::StrCat("refused to delete ", path, ": not a checkpoint in ", checkpoints_dir));
  }
  std::error_code error;
  fs::remove_all(folder, error);
  if (error) return common::ErrnoStatus(error.value(), path, "delete");
  return absl::OkStatus();
}

void RemoveUnfinishedCheckpoints(const std::string& checkpoints_dir, int64_t generation) {
  for (const fs::path& folder : FoldersBefore(checkpoints_dir, generation)) {
    std::error_code error, ignored;
    if (fs::exists(folder / common::kManifestFile, error) || error) continue;
    fs::remove_all(folder, ignored);
    common::LogInfo("removed an unfinished checkpoint", {{"path", folder.string()}});
  }
}

void RemoveLostCheckpoints(const std::string& checkpoints_dir, const std::string& job,
                           int64_t generation, const std::set<std::string>& listed) {
  std::set<fs::path> kept;
  for (const std::string& path : listed) kept.insert(fs::path(path).lexically_normal());
  for (const fs::path& folder : FoldersBefore(checkpoints_dir, generation)) {
    if (kept.count(folder.lexically_normal()) > 0) continue;
    const std::string file = (folder / common::kCheckpointStateFile).string();
    const absl::StatusOr<std::string> text = common::ReadFile(file);
    if (!text.ok()) continue;
    const absl::StatusOr<CheckpointState> state = StateFromJson(file, *text);
    if (!state.ok() || state->job != job) continue;
    std::error_code ignored;
    fs::remove_all(folder, ignored);
    common::LogInfo("removed a checkpoint that was never committed", {{"path", folder.string()}});
  }
}

}  // namespace d2g::rank

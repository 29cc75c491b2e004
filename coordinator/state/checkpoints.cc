#include "coordinator/state/checkpoints.h"

#include <algorithm>
#include <ranges>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "coordinator/rows/limits.h"
#include "coordinator/state/timestamps.h"
#include "services/common/output_folder.h"
#include "services/common/path_policy.h"
#include "services/common/utf8.h"
#include "services/spec/field_rules.h"

namespace d2g::coordinator {

using rows::v1::CheckpointRow;
using rows::v1::JobRow;
using v1::Checkpoint;

absl::Status CheckCommit(const v1::CommitCheckpointRequest& request, const JobRow& job,
                         const std::string& path) {
  const std::string& digest = request.manifest_digest();
  if (digest.size() != 32 || !std::all_of(digest.begin(), digest.end(), [](char c) {
        return absl::ascii_isxdigit(static_cast<unsigned char>(c));
      })) {
    return absl::InvalidArgumentError(absl::StrCat(
        "manifest_digest: \"", common::ValidUtf8(digest, kMaxIdBytes), "\" is not 32 hex digits"));
  }
  const std::string folder =
      common::CheckpointsFolder(common::NormalPath(job.spec().output_dir())) + "/";
  if (!absl::StartsWith(path, folder) || absl::StrContains(request.path(), "/../") ||
      request.path().size() > spec::kMaxPathBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("path: \"", common::ValidUtf8(request.path(), 2 * kMaxIdBytes),
                     "\" is not below ", folder));
  }
  const int64_t steps = job.spec().train().steps();
  if (request.step() < 1 || request.step() > steps) {
    return absl::InvalidArgumentError(
        absl::StrCat("step: ", request.step(), " is not from 1 to ", steps));
  }
  return absl::OkStatus();
}

const Checkpoint* Checkpoints::Last(absl::string_view job) const {
  // The newest is never retired, but its row may have been set aside.
  for (const auto& [id, row] : rows_.Children(job) | std::views::reverse) {
    if (!row.retired()) return &row.checkpoint();
  }
  return nullptr;
}

const CheckpointRow* Checkpoints::Find(absl::string_view job, int64_t step) const {
  return rows_.Find(ChildId(job, step));
}

bool Checkpoints::TrainDone(const JobRow& job) const {
  const Checkpoint* last = Last(job.id());
  return last != nullptr && last->step() == job.spec().train().steps();
}

std::vector<std::pair<std::string, const Checkpoint*>> Checkpoints::NewestFirst(
    absl::string_view job) const {
  std::vector<std::pair<std::string, const Checkpoint*>> checkpoints;
  for (const auto& [id, row] : rows_.Children(job) | std::views::reverse) {
    if (!row.retired()) checkpoints.emplace_back(id, &row.checkpoint());
  }
  return checkpoints;
}

std::vector<std::string> Checkpoints::RetiredPaths(absl::string_view job) const {
  std::vector<std::string> paths;
  for (const auto& [id, row] : rows_.Children(job)) {
    if (row.retired()) paths.push_back(row.checkpoint().path());
  }
  return paths;
}

const Checkpoint& Checkpoints::Add(absl::string_view job,
                                   const v1::CommitCheckpointRequest& request,
                                   const std::string& path, Moment now) {
  CheckpointRow& row = rows_.Mutable(ChildId(job, request.step()));
  row.Clear();  // a retired one of this step, when the checkpoints after it were lost
  Checkpoint& checkpoint = *row.mutable_checkpoint();
  checkpoint.set_name(CheckpointName(job, request.step()));
  checkpoint.set_step(request.step());
  checkpoint.set_generation(request.generation());
  checkpoint.set_path(path);
  checkpoint.set_manifest_digest(request.manifest_digest());
  *checkpoint.mutable_commit_time() = ToTimestamp(now.wall);
  return checkpoint;
}

std::vector<std::string> Checkpoints::Retire(absl::string_view job, int32_t keep,
                                             const std::set<std::string>& pinned) {
  std::vector<std::string> newest_first;
  for (const auto& [id, row] : rows_.Children(job) | std::views::reverse) {
    newest_first.push_back(id);
  }
  // A retired one is named in two answers, in case the first got lost, and then forgotten.
  std::vector<std::string> delete_paths;
  for (size_t i = 0; i < newest_first.size(); ++i) {
    const CheckpointRow& row = *rows_.Find(newest_first[i]);
    const std::string path = row.checkpoint().path();
    if (row.retired()) {
      delete_paths.push_back(path);
      rows_.Erase(newest_first[i]);
    } else if (i >= static_cast<size_t>(keep) && !pinned.contains(path)) {
      delete_paths.push_back(path);
      rows_.Mutable(newest_first[i]).set_retired(true);
    }
  }
  return delete_paths;
}

}  // namespace d2g::coordinator

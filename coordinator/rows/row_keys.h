// Ids of rows and resource names. A row's key is "<kind>/<id>"; numbers in ids are written with 20
// digits so that rows sort by number. docs/formats.md says what is kept.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace d2g::coordinator {

// Row kinds. These names are on disk: do not change them.
inline constexpr char kMetaKey[] = "meta";
inline constexpr char kJobPrefix[] = "job/";
inline constexpr char kDatasetPrefix[] = "dataset/";
inline constexpr char kSealsPrefix[] = "seals/";
inline constexpr char kDroppedPrefix[] = "dropped/";
inline constexpr char kShardPrefix[] = "shard/";
inline constexpr char kLeasePrefix[] = "lease/";
inline constexpr char kFailurePrefix[] = "failure/";
inline constexpr char kCheckpointPrefix[] = "checkpoint/";
inline constexpr char kSnapshotPrefix[] = "snapshot/";
inline constexpr char kGangPrefix[] = "gang/";
inline constexpr char kPromptListPrefix[] = "prompts/";

// 20 digits. REQUIRES: number >= 0.
std::string NumberId(int64_t number);
// "{parent}/{number}": seals of a dataset by shard; failures, checkpoints and snapshots of a job.
std::string ChildId(absl::string_view parent, int64_t number);
// Reads ChildId; nullopt when it is none.
struct ParsedChildId {
  std::string parent;
  int64_t number;
};
std::optional<ParsedChildId> ParseChildId(absl::string_view id);

// "jobs/{id}" and back; INVALID_ARGUMENT names what is wrong with the name.
std::string JobName(absl::string_view id);
absl::StatusOr<std::string> ParseJobName(absl::string_view name);
// "datasets/{id}" and back.
std::string DatasetName(absl::string_view id);
absl::StatusOr<std::string> ParseDatasetName(absl::string_view name);
// "jobs/{id}/tasks/{n}" and back.
std::string TaskName(absl::string_view job, int64_t task);
struct ParsedTaskName {
  std::string job;
  int64_t task;
};
absl::StatusOr<ParsedTaskName> ParseTaskName(absl::string_view name);
// "jobs/{id}/checkpoints/{step}".
std::string CheckpointName(absl::string_view job, int64_t step);

}  // namespace d2g::coordinator

#include "coordinator/rows/row_keys.h"

#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "services/common/utf8.h"

namespace d2g::coordinator {
namespace {

constexpr size_t kMaxResourceIdBytes = 64;

bool IsResourceId(absl::string_view id) {
  if (id.empty() || id.size() > kMaxResourceIdBytes) return false;
  for (const char c : id) {
    if (!absl::ascii_islower(c) && !absl::ascii_isdigit(c) && c != '-') return false;
  }
  return true;
}

absl::StatusOr<std::string> ParseName(absl::string_view name, absl::string_view collection) {
  absl::string_view id = name;
  if (!absl::ConsumePrefix(&id, collection) || !IsResourceId(id)) {
    return absl::InvalidArgumentError(
        absl::StrCat("name \"", common::ValidUtf8(name, 2 * kMaxResourceIdBytes),
                     "\" is not of the form ", collection, "{id} with an id of 1 to ",
                     kMaxResourceIdBytes, " lower-case letters, digits and dashes"));
  }
  return std::string(id);
}

}  // namespace

std::string NumberId(int64_t number) { return absl::StrFormat("%020d", number); }

std::string ChildId(absl::string_view parent, int64_t number) {
  return absl::StrCat(parent, "/", NumberId(number));
}

std::optional<ParsedChildId> ParseChildId(absl::string_view id) {
  const std::vector<absl::string_view> parts = absl::StrSplit(id, '/');
  int64_t number = 0;
  if (parts.size() != 2 || parts[0].empty() || parts[1].size() != 20 ||
      !absl::SimpleAtoi(parts[1], &number) || number < 0) {
    return std::nullopt;
  }
  return ParsedChildId{std::string(parts[0]), number};
}

std::string JobName(absl::string_view id) { return absl::StrCat("jobs/", id); }
absl::StatusOr<std::string> ParseJobName(absl::string_view name) {
  return ParseName(name, "jobs/");
}
std::string DatasetName(absl::string_view id) { return absl::StrCat("datasets/", id); }
absl::StatusOr<std::string> ParseDatasetName(absl::string_view name) {
  return ParseName(name, "datasets/");
}

std::string TaskName(absl::string_view job, int64_t task) {
  return absl::StrCat("jobs/", job, "/tasks/", task);
}

absl::StatusOr<ParsedTaskName> ParseTaskName(absl::string_view name) {
  const std::vector<absl::string_view> parts = absl::StrSplit(name, '/');
  int64_t task = 0;
  if (parts.size() != 4 || parts[0] != "jobs" || !IsResourceId(parts[1]) || parts[2] != "tasks" ||
      !absl::SimpleAtoi(parts[3], &task) || task < 0) {
    return absl::InvalidArgumentError(absl::StrCat("name \"",
                                                   common::ValidUtf8(name, 3 * kMaxResourceIdBytes),
                                                   "\" is not of the form jobs/{id}/tasks/{n}"));
  }
  return ParsedTaskName{std::string(parts[1]), task};
}

std::string CheckpointName(absl::string_view job, int64_t step) {
  return absl::StrCat("jobs/", job, "/checkpoints/", step);
}

}  // namespace d2g::coordinator

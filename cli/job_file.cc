#include "cli/job_file.h"

#include <yaml-cpp/yaml.h>

#include <filesystem>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "cli/yaml_message.h"
#include "services/common/file_io.h"
#include "services/common/status_macros.h"

namespace d2g::cli {
namespace {

using coordinator::v1::JobSpec;

// The fields that hold paths. A path that is only meaningful on the nodes is still written
// relative to the job file: on the machine of the local cluster both are the same.
std::vector<std::string*> PathFields(JobSpec* spec) {
  std::vector<std::string*> paths;
  if (spec->has_teacher()) paths.push_back(spec->mutable_teacher()->mutable_path());
  if (spec->has_prompts()) paths.push_back(spec->mutable_prompts()->mutable_path());
  if (spec->train().has_regression()) {
    paths.push_back(spec->mutable_train()->mutable_regression()->mutable_features_path());
  }
  if (spec->has_evaluate()) paths.push_back(spec->mutable_evaluate()->mutable_evaluator_path());
  paths.push_back(spec->mutable_output_dir());
  return paths;
}

}  // namespace

absl::StatusOr<JobSpec> ParseJobFile(std::string_view text, const std::string& file) {
  if (text.size() > kMaxJobFileBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": ", text.size(), " bytes; a job file has at most ", kMaxJobFileBytes));
  }
  JobSpec spec;
  D2G_RETURN_IF_ERROR(ParseYamlMessage(text, file, &spec));
  return spec;
}

absl::Status SetJobField(std::string_view assignment, JobSpec* spec) {
  const size_t equals = assignment.find('=');
  if (equals == std::string_view::npos || equals == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--set '", std::string(assignment), "': expected FIELD=VALUE, as in train.steps=100"));
  }
  return SetMessageField(assignment.substr(0, equals), assignment.substr(equals + 1), "--set",
                         spec);
}

void ResolvePaths(const std::string& folder, JobSpec* spec) {
  for (std::string* path : PathFields(spec)) {
    if (path->empty()) continue;
    const auto joined = std::filesystem::absolute(folder) / *path;
    *path = joined.lexically_normal().string();
  }
}

absl::StatusOr<JobSpec> LoadJobFile(const std::string& path) {
  D2G_ASSIGN_OR_RETURN(const std::string text, common::ReadFile(path));
  D2G_ASSIGN_OR_RETURN(JobSpec spec, ParseJobFile(text, path));
  ResolvePaths(std::filesystem::absolute(path).parent_path().string(), &spec);
  return spec;
}

}  // namespace d2g::cli

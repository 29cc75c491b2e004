#include "cli/job_file.h"

#include <yaml-cpp/yaml.h>

#include <cstdlib>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "cli/yaml_message.h"
#include "services/common/file_io.h"
#include "services/common/status_macros.h"
#include "services/spec/field_rules.h"

namespace d2g::cli {

using coordinator::v1::JobSpec;

namespace {

// `path` as a shell would hand it over: a job file is read by no shell, and after the = of --set
// none looks at it.
absl::StatusOr<std::string> ExpandPath(const std::string& field, const std::string& path) {
  const auto bad = [&](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat(field, ": '", path, "' ", why));
  };
  if (absl::StartsWith(path, "$")) {
    return bad("begins with a variable, which is not replaced here; write the folder out");
  }
  if (!absl::StartsWith(path, "~")) return path;
  if (path != "~" && !absl::StartsWith(path, "~/")) {
    return bad("begins with another user's home, which is not looked up; write the folder out");
  }
  const char* const home = std::getenv("HOME");
  if (home == nullptr || *home != '/') return bad("needs $HOME, which names no folder");
  return absl::StrCat(home, path.substr(1));
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

// A path that is only meaningful on the nodes is still relative to the job file: on the machine of
// the local cluster both are the same.
absl::Status ResolvePaths(const std::string& folder, JobSpec* job) {
  D2G_ASSIGN_OR_RETURN(const std::string base, common::AbsolutePath(folder));
  return spec::TransformPaths(
      job, [&](const std::string& field, const std::string& path) -> absl::StatusOr<std::string> {
        D2G_ASSIGN_OR_RETURN(const std::string expanded, ExpandPath(field, path));
        return (std::filesystem::path(base) / expanded).lexically_normal().string();
      });
}

absl::StatusOr<JobSpec> LoadJobFile(const std::string& path) {
  D2G_ASSIGN_OR_RETURN(const std::string text, common::ReadFile(path));
  D2G_ASSIGN_OR_RETURN(JobSpec spec, ParseJobFile(text, path));
  const std::string folder = std::filesystem::path(path).parent_path().string();
  D2G_RETURN_IF_ERROR(common::Annotate(ResolvePaths(folder.empty() ? "." : folder, &spec), path));
  return spec;
}

}  // namespace d2g::cli

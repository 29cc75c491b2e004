#include "services/common/path_policy.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "CLI/CLI.hpp"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/common/file_io.h"
#include "services/common/output_folder.h"
#include "services/common/status_macros.h"

namespace d2g::common {
namespace {

namespace fs = std::filesystem;
using coordinator::v1::JobSpec;

constexpr char kModelRoot[] = "--model-root";
constexpr char kOutputRoot[] = "--output-root";
constexpr char kKeepOut[] = "--keep-out";

bool Holds(absl::string_view folder, absl::string_view path) {
  return folder == "/" || (absl::StartsWith(path, folder) && path.size() > folder.size() &&
                           path[folder.size()] == '/');
}

// "PATH", or with where its links lead.
std::string Shown(const std::string& path, const std::string& resolved) {
  return path == resolved ? absl::StrCat("\"", path, "\"")
                          : absl::StrCat("\"", path, "\" (which is ", resolved, ")");
}

absl::Status CheckRoots(const char* flag, const std::vector<std::string>& roots,
                        const std::string& path) {
  if (roots.empty()) return absl::OkStatus();
  D2G_ASSIGN_OR_RETURN(const std::string resolved, ResolvePath(path));
  for (const std::string& root : roots) {
    const auto folder = ResolvePath(root);
    if (!folder.ok()) continue;
    const absl::string_view relation = RelationOf(resolved, *folder);
    if (relation == "is" || relation == "lies within") return absl::OkStatus();
  }
  return absl::PermissionDeniedError(absl::StrCat(Shown(path, resolved), " is not within ", flag,
                                                  " ", absl::StrJoin(roots, " or ")));
}

absl::Status CheckOutputPath(const PathPolicy& policy, const std::string& path) {
  D2G_RETURN_IF_ERROR(CheckRoots(kOutputRoot, policy.output_roots, path));
  D2G_ASSIGN_OR_RETURN(const std::string resolved, ResolvePath(path));
  for (const std::string& kept : policy.keep_out) {
    const auto folder = ResolvePath(kept);
    if (!folder.ok()) continue;
    if (const auto relation = RelationOf(resolved, *folder); !relation.empty()) {
      return absl::PermissionDeniedError(absl::StrCat(Shown(path, resolved), " ", relation, " ",
                                                      kept,
                                                      ", where a service of d2g keeps its "
                                                      "own files"));
    }
  }
  return absl::OkStatus();
}

// output_dir itself, and those of its folders that links lead away.
absl::Status CheckOutputFolders(const PathPolicy& policy, const std::string& output_dir) {
  D2G_RETURN_IF_ERROR(CheckOutputPath(policy, output_dir));
  for (const std::string& folder : FollowedFolders(output_dir)) {
    std::error_code ignored;
    if (fs::is_symlink(fs::symlink_status(folder, ignored))) {
      D2G_RETURN_IF_ERROR(CheckOutputPath(policy, folder));
    }
  }
  return absl::OkStatus();
}

struct Input {
  const char* field;
  const std::string* path;
};

// The folders that the job reads.
std::vector<Input> InputsOf(const JobSpec& spec) {
  std::vector<Input> inputs = {{"teacher.path", &spec.teacher().path()}};
  if (spec.train().regression().features_weight() > 0) {
    inputs.push_back(
        {"train.regression.features_path", &spec.train().regression().features_path()});
  }
  if (spec.evaluate().pictures() > 0) {
    inputs.push_back({"evaluate.evaluator_path", &spec.evaluate().evaluator_path()});
  }
  return inputs;
}

}  // namespace

void AddPathFlags(CLI::App* app, PathPolicy* policy) {
  const auto add = [app](const char* flag, std::vector<std::string>* folders, const char* help) {
    app->add_option_function<std::vector<std::string>>(
           flag,
           [flag, folders](const std::vector<std::string>& given) {
             for (const std::string& folder : given) {
               std::error_code error;
               const fs::path absolute = fs::absolute(folder, error);
               if (error || folder.empty()) {
                 throw CLI::ValidationError(flag, absl::StrCat("'", folder, "' is not a folder"));
               }
               folders->push_back(NormalPath(absolute.string()));
             }
           },
           help)
        ->allow_extra_args(false)
        ->type_name("DIR");
  };
  add(kModelRoot, &policy->model_roots,
      "jobs may name teachers, evaluators and feature networks within DIR only (repeatable)");
  add(kOutputRoot, &policy->output_roots,
      "jobs may have their output within DIR only (repeatable)");
  add(kKeepOut, &policy->keep_out, "no job may have its output in, at or around DIR (repeatable)");
}

std::vector<std::string> PathArguments(const PathPolicy& policy) {
  std::vector<std::string> arguments;
  const auto add = [&arguments](const char* flag, const std::vector<std::string>& folders) {
    for (const std::string& folder : folders) {
      arguments.push_back(flag);
      arguments.push_back(folder);
    }
  };
  add(kModelRoot, policy.model_roots);
  add(kOutputRoot, policy.output_roots);
  add(kKeepOut, policy.keep_out);
  return arguments;
}

std::string NormalPath(const std::string& path) {
  std::string normal = fs::path(path).lexically_normal().string();
  if (normal.size() > 1 && normal.back() == '/') normal.pop_back();
  return normal;
}

absl::StatusOr<std::string> ResolvePath(const std::string& path) {
  std::error_code error;
  const fs::path resolved = fs::weakly_canonical(path, error);
  if (error) return ErrnoStatus(error.value(), path, "cannot be resolved");
  for (fs::path part = resolved; part != part.root_path(); part = part.parent_path()) {
    if (fs::is_symlink(fs::symlink_status(part, error))) {
      return absl::FailedPreconditionError(
          absl::StrCat(path, ": ", part.string(), " is a link that leads nowhere"));
    }
  }
  return NormalPath(resolved.string());
}

absl::string_view RelationOf(absl::string_view a, absl::string_view b) {
  if (a == b) return "is";
  if (Holds(b, a)) return "lies within";
  return Holds(a, b) ? "contains" : "";
}

absl::Status CheckModelPath(const PathPolicy& policy, const std::string& path) {
  return CheckRoots(kModelRoot, policy.model_roots, path);
}

std::vector<FieldViolation> PathViolations(const PathPolicy& policy, const JobSpec& spec) {
  std::vector<FieldViolation> violations;
  const auto note = [&violations](const char* field, const absl::Status& status) {
    if (status.ok()) return;
    violations.push_back({absl::StrCat("spec.", field), std::string(status.message())});
  };
  for (const Input& input : InputsOf(spec)) {
    note(input.field, CheckModelPath(policy, *input.path));
  }
  note("output_dir", CheckOutputFolders(policy, spec.output_dir()));
  const auto output = ResolvePath(spec.output_dir());
  if (!output.ok()) {
    if (violations.empty()) note("output_dir", output.status());
    return violations;
  }
  for (const Input& input : InputsOf(spec)) {
    const auto folder = ResolvePath(*input.path);
    if (!folder.ok()) continue;
    if (const auto relation = RelationOf(*output, *folder); !relation.empty()) {
      note("output_dir", absl::PermissionDeniedError(
                             absl::StrCat(Shown(spec.output_dir(), *output), " ", relation, " ",
                                          *input.path, ", which the job reads as ", input.field)));
    }
  }
  return violations;
}

absl::Status CheckJobPaths(const PathPolicy& policy, const JobSpec& spec) {
  const auto violations = PathViolations(policy, spec);
  if (violations.empty()) return absl::OkStatus();
  return absl::PermissionDeniedError(
      absl::StrJoin(violations, "; ", [](std::string* out, const FieldViolation& violation) {
        absl::StrAppend(out, violation.field, ": ", violation.description);
      }));
}

}  // namespace d2g::common

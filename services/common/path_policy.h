// Which folders jobs may name: roots that confine what they read and write, and folders that no job
// may write to. Every path is compared after its symbolic links are resolved.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "d2g/coordinator/v1/job.pb.h"
#include "services/common/grpc_status.h"

namespace CLI {
class App;
}  // namespace CLI

namespace d2g::common {

// As given on the command line. Absolute; they need not exist.
struct PathPolicy {
  // teacher.path, features_path and evaluator_path must lie within one of these; none: anywhere.
  std::vector<std::string> model_roots;
  // The same for output_dir.
  std::vector<std::string> output_roots;
  // An output_dir may not be, contain or lie within any of these: what services keep.
  std::vector<std::string> keep_out;
};

// --model-root, --output-root and --keep-out, each as often as wanted; relative ones are taken from
// the working directory.
void AddPathFlags(CLI::App* app, PathPolicy* policy);
// The flags that give another program the same policy.
std::vector<std::string> PathArguments(const PathPolicy& policy);

// A path without "." and "..", doubled and trailing slashes; symbolic links are not looked at.
std::string NormalPath(const std::string& path);

// Where an absolute path leads, whose last parts need not exist yet. The error names the path: a
// link to nothing (nobody knows where it will lead), a folder that may not be searched.
absl::StatusOr<std::string> ResolvePath(const std::string& path);

// How a lies to b: "is", "lies within" or "contains"; empty when neither holds the other.
// REQUIRES: both normal or resolved.
absl::string_view RelationOf(absl::string_view a, absl::string_view b);

// PERMISSION_DENIED, with path and roots, for a model outside every root.
absl::Status CheckModelPath(const PathPolicy& policy, const std::string& path);

// Everything that is wrong with the paths of a normalized spec, by field ("spec.output_dir"): a
// model or output_dir outside its roots; an output_dir, or one of its folders that is a link, that
// meets a folder of `keep_out`; an output_dir that meets a folder that the job reads. The
// coordinator asks when a job is submitted, and whoever reads or writes asks again. Reads the file
// system.
std::vector<FieldViolation> PathViolations(const PathPolicy& policy,
                                           const coordinator::v1::JobSpec& spec);
// The same as a status: PERMISSION_DENIED with all of them.
absl::Status CheckJobPaths(const PathPolicy& policy, const coordinator::v1::JobSpec& spec);

}  // namespace d2g::common

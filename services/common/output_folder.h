// A job's output_dir: what is in it, and which job it belongs to.
//
//   output_dir/d2g-job.json    the mark: whose folder it is; written before anything else
//   output_dir/checkpoints/ evaluation/ export/ audit/
//   output_dir/replaced/ID/    what job ID left here, set aside when another job took the folder
//
// The rules: a job writes only to a folder that carries its mark; a folder that is another job's is
// taken over only when the new job asks for it (JobSpec.overwrite); what no job has made is never
// moved, replaced or removed. Thread-safe: no state but the file system's.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace d2g::common {

// The mark, {"job": "jobs/ID", "version": 1}.
inline constexpr char kOwnerFile[] = "d2g-job.json";
// Where an export comes from; its "job" is who made it.
inline constexpr char kLineageFile[] = "d2g.json";

std::string CheckpointsFolder(const std::string& output_dir);
std::string EvaluationFolder(const std::string& output_dir);
std::string ExportFolder(const std::string& output_dir);
std::string AuditFolder(const std::string& output_dir);
// Where what `job` ("jobs/ID") left in output_dir goes when another job takes the folder over.
std::string ReplacedFolder(const std::string& output_dir, const std::string& job);
// The folders of output_dir that are written to also where they are links. (A link at export/ is
// replaced, not followed.)
std::vector<std::string> FollowedFolders(const std::string& output_dir);

// Who has written to an output folder.
struct OutputOwner {
  // "jobs/ID"; empty where the files do not name it (an older export).
  std::string job;
  // The file that says so; empty: nobody has written there.
  std::string source;

  // "jobs/ID (as FILE says)".
  std::string Describe() const;
};

// Reads the mark; in a folder without one, what exports and checkpoints say of their job. If they
// name several, `asking` is preferred. FAILED_PRECONDITION when the mark is not readable as one, or
// when one of the folders above holds files and nothing says that a job wrote them; it names what
// is there. An I/O error is returned as ErrnoStatus: a volume may be away for a while.
absl::StatusOr<OutputOwner> FindOutputOwner(const std::string& output_dir,
                                            const std::string& asking = "");

// The mark in a folder that `output_dir` lies within; no source where there is none.
OutputOwner FindOutputAround(const std::string& output_dir);

// Makes output_dir where it is missing and `job` its owner, durably. FAILED_PRECONDITION names
// another owner, or files that no job made; INVALID_ARGUMENT a job that is not "jobs/ID". With
// `take_over` another job's files go to its ReplacedFolder first. A repeat is a success. REQUIRES,
// with `take_over`: no other process of the job writes there yet.
absl::Status ClaimOutput(const std::string& output_dir, const std::string& job,
                         bool take_over = false);

// OK when `path` is absent, an empty folder, or an export of `job` (or one that does not
// say whose it is, as older ones: the folder's mark says it then). Looks through a link. Otherwise
// FAILED_PRECONDITION says what is there, calling it `shown`.
absl::Status CheckReplaceable(const std::string& path, const std::string& job,
                              const std::string& shown);

}  // namespace d2g::common

// The command line's way to the coordinator: which one, and its calls with deadlines and with
// errors that say what to do next.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/client/client.h"
#include "services/common/prompts.h"

namespace d2g::cli {

// Which coordinator: --coordinator, else the cluster.json of a --data-dir that was given, else
// $D2G_COORDINATOR, else the cluster.json of the default data folder.
struct CoordinatorFlags {
  std::string address;
  std::string data_dir;
  bool data_dir_given = false;
};

// Adds --coordinator and --data-dir.
void AddCoordinatorFlags(CLI::App* app, CoordinatorFlags* flags);

// "a1b2" and "jobs/a1b2" -> "jobs/a1b2".
std::string JobName(const std::string& given);

// Calls retry while the coordinator is unreachable, for kPatience; then UNAVAILABLE names the
// address and where it came from. Not thread-safe.
class CoordinatorLink {
 public:
  static constexpr absl::Duration kPatience = absl::Seconds(5);

  // Finds the address; does not connect. UNAVAILABLE says how to start or name a coordinator.
  static absl::StatusOr<std::unique_ptr<CoordinatorLink>> Open(const CoordinatorFlags& flags);

  const std::string& address() const { return client_->address(); }

  // Looks for the address anew: a local cluster may have come back on another port. Where none is
  // found, or the same, all stays as it is.
  void FindAgain();

  // Safe to retry when request_id is set. The coordinator reads the whole teacher meanwhile.
  absl::StatusOr<coordinator::v1::Job> CreateJob(const coordinator::v1::CreateJobRequest& request);
  absl::StatusOr<coordinator::v1::Job> GetJob(const std::string& name);
  // Newest first, at most `limit`.
  absl::StatusOr<std::vector<coordinator::v1::Job>> ListJobs(size_t limit);
  absl::StatusOr<coordinator::v1::Job> SetDesiredState(
      const std::string& name, coordinator::v1::Job::DesiredState desired_state);
  // Newest first, at most kPageSize.
  absl::StatusOr<std::vector<coordinator::v1::Checkpoint>> ListCheckpoints(const std::string& job);
  absl::StatusOr<std::vector<coordinator::v1::TaskInfo>> ListTasks(const std::string& job);
  absl::StatusOr<coordinator::v1::Dataset> GetDataset(const std::string& name);

  // Idempotent by content.
  absl::Status UploadPromptList(const common::PromptLines& prompts);

  // Calls `seen` with the job now and at each change until it ends. Reconnects while the
  // coordinator is away, for kPatience at a time; then UNAVAILABLE, and the caller may go on.
  absl::Status WatchJob(const std::string& name,
                        const std::function<void(const coordinator::v1::Job&)>& seen);

 private:
  static constexpr int kPageSize = 500;

  // An address and where it came from: "--coordinator", "$D2G_COORDINATOR" or the path of a cluster
  // file.
  struct Place {
    std::string address;
    std::string origin;
  };
  static absl::StatusOr<Place> Find(const CoordinatorFlags& flags);

  CoordinatorLink(CoordinatorFlags flags, Place place);

  // Says which address did not answer and what to do.
  absl::Status Explain(const absl::Status& told) const;
  template <typename T>
  absl::StatusOr<T> Explain(absl::StatusOr<T> result) const {
    if (result.ok()) return result;
    return Explain(result.status());
  }

  const CoordinatorFlags flags_;
  std::string origin_;
  // Never null.
  std::unique_ptr<coordinator::CoordinatorClient> client_;
};

}  // namespace d2g::cli

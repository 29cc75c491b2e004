#include "cli/coordinator_link.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "cli/cluster_file.h"
#include "cli/format.h"
#include "services/common/address.h"
#include "services/common/deadline.h"
#include "services/common/retry.h"
#include "services/common/status_macros.h"

namespace d2g::cli {
namespace {

using coordinator::v1::Job;

constexpr absl::Duration kCreateTimeout = absl::Minutes(10);
constexpr absl::Duration kUploadTimeout = absl::Minutes(10);

absl::Time Soon() { return common::DeadlineIn(CoordinatorLink::kPatience); }

}  // namespace

void AddCoordinatorFlags(CLI::App* app, CoordinatorFlags* flags) {
  flags->data_dir = DefaultDataDir();
  app->add_option("--coordinator", flags->address,
                  "host:port; default: the local cluster's of --data-dir where that is given, "
                  "else $D2G_COORDINATOR, else the local cluster's");
  AddDataDirFlag(app, &flags->data_dir, "Data folder of the local cluster")
      ->each([flags](const std::string&) { flags->data_dir_given = true; });
}

std::string JobName(const std::string& given) {
  return absl::StartsWith(given, "jobs/") ? given : absl::StrCat("jobs/", given);
}

absl::StatusOr<CoordinatorLink::Place> CoordinatorLink::Find(const CoordinatorFlags& flags) {
  std::string address = flags.address;
  std::string origin = "--coordinator";
  if (address.empty() && !flags.data_dir_given) {
    const char* variable = std::getenv("D2G_COORDINATOR");
    address = variable == nullptr ? "" : variable;
    origin = "$D2G_COORDINATOR";
  }
  if (address.empty()) {
    const auto cluster = ReadClusterFile(flags.data_dir);
    if (absl::IsNotFound(cluster.status())) {
      return absl::UnavailableError(
          absl::StrCat("no coordinator: no local cluster is running on ", flags.data_dir,
                       "; start one with d2g up, or give --coordinator HOST:PORT"));
    }
    D2G_RETURN_IF_ERROR(cluster.status());
    address = cluster->coordinator;
    origin = ClusterFilePath(flags.data_dir);
  }
  if (const auto parsed = common::ParseAddress(address); !parsed.ok()) {
    return common::Annotate(parsed.status(), origin);
  }
  return Place{.address = std::move(address), .origin = std::move(origin)};
}

absl::StatusOr<std::unique_ptr<CoordinatorLink>> CoordinatorLink::Open(
    const CoordinatorFlags& flags) {
  D2G_ASSIGN_OR_RETURN(Place place, Find(flags));
  return std::unique_ptr<CoordinatorLink>(new CoordinatorLink(flags, std::move(place)));
}

CoordinatorLink::CoordinatorLink(CoordinatorFlags flags, Place place)
    : flags_(std::move(flags)),
      origin_(std::move(place.origin)),
      client_(std::make_unique<coordinator::CoordinatorClient>(place.address)) {}

void CoordinatorLink::FindAgain() {
  absl::StatusOr<Place> place = Find(flags_);
  if (!place.ok() || place->address == address()) return;
  origin_ = std::move(place->origin);
  client_ = std::make_unique<coordinator::CoordinatorClient>(place->address);
}

absl::Status CoordinatorLink::Explain(const absl::Status& told) const {
  const absl::Status status = ShownStatus(told);
  if (absl::IsUnimplemented(status)) {
    return absl::UnavailableError(
        absl::StrCat(address(), " (from ", origin_, ") answers, but is no coordinator: ",
                     status.message().empty() ? "it does not know the call" : status.message(),
                     "; check the address"));
  }
  if (!common::IsRetryable(status)) return status;
  return absl::UnavailableError(absl::StrCat("cannot reach the coordinator at ", address(),
                                             " (from ", origin_, "): ", status.message(),
                                             "; check the address and that it is up (d2g up)"));
}

absl::StatusOr<Job> CoordinatorLink::CreateJob(const coordinator::v1::CreateJobRequest& request) {
  // Creating may take minutes; that nobody answers is found out sooner by a small call.
  D2G_RETURN_IF_ERROR(ListJobs(1).status());
  return Explain(client_->CreateJob(request, common::DeadlineIn(kCreateTimeout)));
}

absl::StatusOr<Job> CoordinatorLink::GetJob(const std::string& name) {
  coordinator::v1::GetJobRequest request;
  request.set_name(name);
  return Explain(client_->GetJob(request, Soon()));
}

absl::StatusOr<std::vector<Job>> CoordinatorLink::ListJobs(size_t limit) {
  std::vector<Job> jobs;
  coordinator::v1::ListJobsRequest request;
  do {
    request.set_page_size(static_cast<int>(std::min<size_t>(kPageSize, limit - jobs.size())));
    D2G_ASSIGN_OR_RETURN(const auto page, Explain(client_->ListJobs(request, Soon())));
    jobs.insert(jobs.end(), page.jobs().begin(), page.jobs().end());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty() && jobs.size() < limit);
  return jobs;
}

absl::StatusOr<Job> CoordinatorLink::SetDesiredState(const std::string& name,
                                                     Job::DesiredState desired_state) {
  coordinator::v1::SetDesiredStateRequest request;
  request.set_name(name);
  request.set_desired_state(desired_state);
  return Explain(client_->SetDesiredState(request, Soon()));
}

absl::StatusOr<std::vector<coordinator::v1::Checkpoint>> CoordinatorLink::ListCheckpoints(
    const std::string& job) {
  coordinator::v1::ListCheckpointsRequest request;
  request.set_parent(job);
  request.set_page_size(kPageSize);
  D2G_ASSIGN_OR_RETURN(const auto page, Explain(client_->ListCheckpoints(request, Soon())));
  return std::vector<coordinator::v1::Checkpoint>(page.checkpoints().begin(),
                                                  page.checkpoints().end());
}

absl::StatusOr<std::vector<coordinator::v1::TaskInfo>> CoordinatorLink::ListTasks(
    const std::string& job) {
  coordinator::v1::ListTasksRequest request;
  request.set_parent(job);
  request.set_page_size(kPageSize);
  D2G_ASSIGN_OR_RETURN(const auto page, Explain(client_->ListTasks(request, Soon())));
  return std::vector<coordinator::v1::TaskInfo>(page.tasks().begin(), page.tasks().end());
}

absl::StatusOr<coordinator::v1::Dataset> CoordinatorLink::GetDataset(const std::string& name) {
  coordinator::v1::GetDatasetRequest request;
  request.set_name(name);
  return Explain(client_->GetDataset(request, Soon()));
}

absl::Status CoordinatorLink::UploadPromptList(const common::PromptLines& prompts) {
  std::string text;
  for (const std::string& line : prompts.lines) absl::StrAppend(&text, line, "\n");
  D2G_ASSIGN_OR_RETURN(const auto uploaded, Explain(client_->UploadPromptList(
                                                text, common::DeadlineIn(kUploadTimeout))));
  if (uploaded.digest() == prompts.digest) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("the prompt list arrived as ", uploaded.digest(),
                                          ", it was sent as ", prompts.digest));
}

absl::Status CoordinatorLink::WatchJob(const std::string& name,
                                       const std::function<void(const Job&)>& seen) {
  return Explain(client_->WatchJob(name, kPatience, [&seen](const Job& job) {
    seen(job);
    return true;
  }));
}

}  // namespace d2g::cli

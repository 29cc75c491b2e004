// Jobs: submission, steering, listings.
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/spec/dataset_id.h"
#include "coordinator/spec/spec_difference.h"
#include "coordinator/state/cluster_state.h"
#include "coordinator/state/job_view.h"
#include "coordinator/state/listings.h"
#include "services/common/grpc_status.h"
#include "services/common/status_macros.h"
#include "services/spec/normal_spec.h"

namespace d2g::coordinator {

using rows::v1::JobRow;
using v1::Job;

absl::StatusOr<Job> ClusterState::FindRequest(absl::string_view request_id, const v1::JobSpec& spec,
                                              Moment now) const {
  const JobRow* job = jobs_.FindRequest(request_id);
  if (job == nullptr) return absl::NotFoundError("no job was created with this request_id");
  if (const auto difference = SpecDifference(job->spec(), spec); difference.has_value()) {
    return absl::AlreadyExistsError(
        absl::StrCat("request_id: \"", request_id, "\" is that of ", JobName(job->id()),
                     ", which asked for something else: ", *difference));
  }
  return ViewOf(*job, parts(), now);
}

absl::StatusOr<Job> ClusterState::CreateJob(const JobProposal& proposal, Moment now) {
  if (!proposal.validate_only) {
    auto earlier = FindRequest(proposal.request_id, proposal.spec, now);
    if (!absl::IsNotFound(earlier.status())) return earlier;
  }
  std::vector<common::FieldViolation> violations;
  const v1::JobSpec& spec = proposal.spec;
  const auto* prompts = prompt_lists_.Find(spec.prompts().digest());
  if (prompts == nullptr) {
    violations.push_back(
        {spec::kPromptsDigestField,
         absl::StrCat("no prompt list ", spec.prompts().digest(), " was uploaded")});
  }
  if (std::string problem = jobs_.OutputProblem(proposal); !problem.empty()) {
    violations.push_back({"spec.output_dir", std::move(problem)});
  }
  if (!violations.empty()) return common::BadRequest(violations);

  const auto recipe =
      MakeRecipe(spec, proposal.teacher, prompts->prompt_count(), options_.shard_count);
  const DatasetState* known = datasets_.Find(DatasetId(recipe));
  const int64_t reused = known == nullptr ? 0 : known->SealedCount(spec.simulate().triples());
  std::string id;
  do {
    id = options_.new_job_id();
  } while (jobs_.Find(id) != nullptr);
  JobRow row = Jobs::NewRow(std::move(id), proposal, recipe, reused, now);
  if (proposal.validate_only) return ProposedView(row);
  datasets_.Add(row.dataset(), recipe, now);
  const JobRow& job = jobs_.Add(std::move(row));
  notes_.Info("job created", job.id(),
              absl::StrCat(DatasetName(job.dataset()), ", ", reused, " triples reused"));
  Advance(job, now);
  return ViewOf(job, parts(), now);
}

absl::StatusOr<Job> ClusterState::GetJob(absl::string_view name, Moment now) const {
  D2G_ASSIGN_OR_RETURN(const JobRow* job, jobs_.FindByName(name));
  return ViewOf(*job, parts(), now);
}

absl::StatusOr<v1::ListJobsResponse> ClusterState::ListJobs(const v1::ListJobsRequest& request,
                                                            Moment now) const {
  return coordinator::ListJobs(request, parts(), now);
}

absl::StatusOr<v1::ListCheckpointsResponse> ClusterState::ListCheckpoints(
    const v1::ListCheckpointsRequest& request) const {
  return coordinator::ListCheckpoints(request, parts());
}

absl::StatusOr<v1::ListTasksResponse> ClusterState::ListTasks(
    const v1::ListTasksRequest& request) const {
  return coordinator::ListTasks(request, parts());
}

absl::StatusOr<Job> ClusterState::SetDesiredState(const v1::SetDesiredStateRequest& request,
                                                  Moment now) {
  D2G_ASSIGN_OR_RETURN(const JobRow* job, jobs_.FindByName(request.name()));
  const std::string& id = job->id();
  if (request.desired_state() == Job::DESIRED_STATE_UNSPECIFIED ||
      !Job::DesiredState_IsValid(request.desired_state())) {
    return common::BadRequest(
        {{"desired_state", absl::StrCat(static_cast<int>(request.desired_state()),
                                        " is not running, paused or cancelled")}});
  }
  if (HasEnded(*job)) {
    if (job->state() == Job::STATE_CANCELLED &&
        request.desired_state() == Job::DESIRED_STATE_CANCELLED) {
      return ViewOf(*job, parts(), now);
    }
    return absl::FailedPreconditionError(
        absl::StrCat(request.name(), " has ended: it is ", StateText(job->state())));
  }
  jobs_.SetDesiredState(id, request.desired_state(), now);
  if (request.desired_state() == Job::DESIRED_STATE_CANCELLED) {
    EndJob(*job, Job::STATE_CANCELLED, "", now);
  } else if (request.desired_state() == Job::DESIRED_STATE_PAUSED) {
    for (const int64_t lease : tasks_.leases().OfJob(id)) Release(lease);
    gangs_.Leave(id);
  } else {
    jobs_.SetState(id, Job::STATE_RUNNING, now);
  }
  Advance(*job, now);
  return ViewOf(*job, parts(), now);
}

absl::Status ClusterState::DeleteJob(absl::string_view name) {
  D2G_ASSIGN_OR_RETURN(const JobRow* job, jobs_.FindByName(name));
  if (!HasEnded(*job)) {
    return absl::FailedPreconditionError(
        absl::StrCat(name, " has not ended: cancel it before deleting it"));
  }
  const std::string id = job->id();
  checkpoints_.Forget(id);
  snapshots_.Forget(id);
  tasks_.Forget(id);
  gangs_.EraseJob(id);
  jobs_.Erase(id);
  return absl::OkStatus();
}

std::set<std::string> ClusterState::MissingPromptLists() const {
  std::set<std::string> missing;
  for (const auto& [sequence, job] : jobs_.live()) {
    const std::string& digest = job->spec().prompts().digest();
    if (prompt_lists_.Find(digest) == nullptr) missing.insert(digest);
  }
  return missing;
}

}  // namespace d2g::coordinator

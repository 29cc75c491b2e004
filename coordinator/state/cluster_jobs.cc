// Jobs: submission, steering, listings, and how they move through their stages.
#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "coordinator/rows/limits.h"
#include "coordinator/spec/dataset_id.h"
#include "coordinator/spec/spec_difference.h"
#include "coordinator/state/cluster_state.h"
#include "coordinator/state/page_token.h"
#include "coordinator/state/timestamps.h"
#include "services/common/grpc_status.h"
#include "services/common/path_policy.h"
#include "services/common/status_macros.h"

namespace d2g::coordinator {

using namespace d2g::coordinator::v1;  // NOLINT: the resources that this file is about
using d2g::common::LogLevel;
using rows::v1::JobRow;

namespace {

const std::string& OutputPath(const JobRow& job) {
  return job.output_path().empty() ? job.spec().output_dir() : job.output_path();
}

// STATE_CANCELLED as people say it: "cancelled".
std::string StateText(Job::State state) {
  return absl::AsciiStrToLower(absl::StripPrefix(Job::State_Name(state), "STATE_"));
}

}  // namespace

absl::StatusOr<const JobRow*> ClusterState::FindJob(absl::string_view name) const {
  D2G_ASSIGN_OR_RETURN(const std::string id, ParseJobName(name));
  const JobRow* job = tables_.jobs.Find(id);
  if (job == nullptr) return absl::NotFoundError(absl::StrCat("there is no ", name));
  return job;
}

JobRow& ClusterState::Touch(absl::string_view job, Moment now) {
  JobRow& row = tables_.jobs.Mutable(job);
  *row.mutable_update_time() = ToTimestamp(now.wall);
  return row;
}

bool ClusterState::AtWork(const JobRow& job) const {
  return job.state() == Job::STATE_RUNNING && job.desired_state() == Job::DESIRED_STATE_RUNNING;
}

absl::StatusOr<Job> ClusterState::FindRequest(absl::string_view request_id, const JobSpec& spec,
                                              Moment now) const {
  const auto it = request_id.empty() ? requests_.end() : requests_.find(request_id);
  if (it == requests_.end()) return absl::NotFoundError("no job was created with this request_id");
  const JobRow& job = *tables_.jobs.Find(it->second);
  if (const auto difference = SpecDifference(job.spec(), spec); difference.has_value()) {
    return absl::AlreadyExistsError(
        absl::StrCat("request_id: \"", request_id, "\" is that of ", JobName(it->second),
                     ", which asked for something else: ", *difference));
  }
  return View(job, now);
}

std::vector<KnownOutput> ClusterState::EndedOutputs(absl::string_view path) const {
  std::vector<KnownOutput> outputs;
  for (const auto& [id, row] : tables_.jobs.rows()) {
    if (HasEnded(row) && !d2g::common::RelationOf(path, OutputPath(row)).empty()) {
      outputs.push_back({JobName(id), OutputPath(row)});
    }
  }
  return outputs;
}

std::string ClusterState::OutputProblem(const JobProposal& proposal) const {
  const std::string& output = proposal.spec.output_dir();
  const std::string& path = proposal.output_path.empty() ? output : proposal.output_path;
  for (const auto& [sequence, id] : live_jobs_) {
    const std::string& other = OutputPath(*tables_.jobs.Find(id));
    const absl::string_view relation = d2g::common::RelationOf(path, other);
    if (relation.empty() && proposal.replaces != JobName(id)) continue;
    return absl::StrCat("\"", output, "\" ",
                        path == other ? "" : absl::StrCat(relation, " ", other, ", which "),
                        "is in use by ", JobName(id), ", which has not ended");
  }
  return "";
}

void ClusterState::NoteReplaced(const std::string& job, Moment now) {
  const std::string replaced = tables_.jobs.Find(job)->replaces();
  if (replaced.empty()) return;
  const auto old = FindJob(replaced);
  if (!old.ok() || (*old)->output_replaced_by() == JobName(job)) return;
  Touch((*old)->id(), now).set_output_replaced_by(JobName(job));
}

absl::StatusOr<Job> ClusterState::CreateJob(const JobProposal& proposal, Moment now) {
  if (!proposal.validate_only) {
    auto earlier = FindRequest(proposal.request_id, proposal.spec, now);
    if (!absl::IsNotFound(earlier.status())) return earlier;
  }
  std::vector<d2g::common::FieldViolation> violations;
  const JobSpec& spec = proposal.spec;
  const auto* prompts = FindPromptList(spec.prompts().digest());
  if (prompts == nullptr) {
    violations.push_back(
        {"spec.prompts.digest",
         absl::StrCat("no prompt list ", spec.prompts().digest(), " was uploaded")});
  }
  if (std::string problem = OutputProblem(proposal); !problem.empty()) {
    violations.push_back({"spec.output_dir", std::move(problem)});
  }
  if (!violations.empty()) return d2g::common::BadRequest(violations);

  const auto recipe =
      MakeRecipe(spec, proposal.teacher, prompts->prompt_count(), options_.shard_count);
  const std::string dataset_id = DatasetId(recipe);
  JobRow row;
  row.set_request_id(proposal.request_id);
  *row.mutable_spec() = spec;
  row.mutable_spec()->mutable_teacher()->set_digest(proposal.teacher.digest);
  row.set_output_path(proposal.output_path);
  row.set_replaces(proposal.replaces);
  row.set_dataset(dataset_id);
  *row.mutable_recipe() = recipe;
  row.set_desired_state(Job::DESIRED_STATE_RUNNING);
  row.set_state(Job::STATE_RUNNING);
  *row.mutable_create_time() = ToTimestamp(now.wall);
  *row.mutable_update_time() = ToTimestamp(now.wall);
  if (const DatasetState* known = FindDataset(dataset_id); known != nullptr) {
    row.set_reused(known->SealedCount(spec.simulate().triples()));
  }
  do {
    row.set_id(options_.new_job_id());
  } while (tables_.jobs.Find(row.id()) != nullptr);
  row.set_sequence(next_sequence_);
  if (proposal.validate_only) {
    Job view;
    view.set_name(JobName(row.id()));
    *view.mutable_spec() = row.spec();
    view.set_dataset(DatasetName(dataset_id));
    view.set_desired_state(row.desired_state());
    view.set_state(row.state());
    *view.mutable_create_time() = row.create_time();
    *view.mutable_update_time() = row.update_time();
    return view;
  }
  ++next_sequence_;
  EnsureDataset(dataset_id, recipe, now);
  const std::string id = row.id();
  live_jobs_[row.sequence()] = id;
  rates_[id];
  if (!row.request_id().empty()) requests_[row.request_id()] = id;
  Tell(LogLevel::kInfo, "job created", id,
       absl::StrCat(DatasetName(dataset_id), ", ", row.reused(), " triples reused"));
  tables_.jobs.Mutable(id) = std::move(row);
  Advance(id, now);
  return View(*tables_.jobs.Find(id), now);
}

absl::StatusOr<Job> ClusterState::GetJob(absl::string_view name, Moment now) const {
  D2G_ASSIGN_OR_RETURN(const JobRow* job, FindJob(name));
  return View(*job, now);
}

absl::StatusOr<ListJobsResponse> ClusterState::ListJobs(const ListJobsRequest& request,
                                                        Moment now) const {
  D2G_ASSIGN_OR_RETURN(const int page_size, PageSize(request.page_size()));
  D2G_ASSIGN_OR_RETURN(const std::string after, DecodePageToken("jobs", request.page_token()));
  std::vector<std::pair<std::string, const JobRow*>> newest_first;
  for (const auto& [id, row] : tables_.jobs.rows()) {
    std::string key = NumberId(row.sequence());
    if (after.empty() || key < after) newest_first.emplace_back(std::move(key), &row);
  }
  std::sort(newest_first.rbegin(), newest_first.rend());
  ListJobsResponse response;
  for (const auto& [key, row] : newest_first) {
    if (response.jobs_size() == page_size) {
      response.set_next_page_token(EncodePageToken(
          "jobs", NumberId(newest_first[static_cast<size_t>(page_size) - 1].second->sequence())));
      break;
    }
    *response.add_jobs() = View(*row, now);
  }
  return response;
}

absl::StatusOr<Job> ClusterState::SetDesiredState(const SetDesiredStateRequest& request,
                                                  Moment now) {
  D2G_ASSIGN_OR_RETURN(const JobRow* found, FindJob(request.name()));
  const std::string id = found->id();
  if (request.desired_state() == Job::DESIRED_STATE_UNSPECIFIED ||
      !Job::DesiredState_IsValid(request.desired_state())) {
    return d2g::common::BadRequest(
        {{"desired_state", absl::StrCat(static_cast<int>(request.desired_state()),
                                        " is not running, paused or cancelled")}});
  }
  if (HasEnded(*found)) {
    if (found->state() == Job::STATE_CANCELLED &&
        request.desired_state() == Job::DESIRED_STATE_CANCELLED) {
      return View(*found, now);
    }
    return absl::FailedPreconditionError(
        absl::StrCat(request.name(), " has ended: it is ", StateText(found->state())));
  }
  Touch(id, now).set_desired_state(request.desired_state());
  switch (request.desired_state()) {
    case Job::DESIRED_STATE_CANCELLED:
      EndJob(id, Job::STATE_CANCELLED, "", now);
      break;
    case Job::DESIRED_STATE_PAUSED:
      ReleaseLeasesOf(id);
      gangs_.Leave(id);
      break;
    default:
      Touch(id, now).set_state(Job::STATE_RUNNING);
      break;
  }
  Advance(id, now);
  return View(*tables_.jobs.Find(id), now);
}

absl::Status ClusterState::DeleteJob(absl::string_view name) {
  D2G_ASSIGN_OR_RETURN(const JobRow* job, FindJob(name));
  if (!HasEnded(*job)) {
    return absl::FailedPreconditionError(
        absl::StrCat(name, " has not ended: cancel it before deleting it"));
  }
  const std::string id = job->id();
  requests_.erase(job->request_id());
  const auto erase_children = [&id](auto& table) {
    std::vector<std::string> ids;
    const std::string prefix = ChildPrefix(id);
    for (auto it = table.rows().lower_bound(prefix);
         it != table.rows().end() && it->first.compare(0, prefix.size(), prefix) == 0; ++it) {
      ids.push_back(it->first);
    }
    for (const std::string& child : ids) table.Erase(child);
  };
  erase_children(tables_.checkpoints);
  erase_children(tables_.snapshots);
  erase_children(tables_.failures);
  gangs_.EraseJob(id);
  tables_.jobs.Erase(id);
  return absl::OkStatus();
}

absl::StatusOr<ListCheckpointsResponse> ClusterState::ListCheckpoints(
    const ListCheckpointsRequest& request) const {
  D2G_ASSIGN_OR_RETURN(const int page_size, PageSize(request.page_size()));
  D2G_ASSIGN_OR_RETURN(const JobRow* job, FindJob(request.parent()));
  const std::string listing = absl::StrCat(request.parent(), "/checkpoints");
  D2G_ASSIGN_OR_RETURN(const std::string after, DecodePageToken(listing, request.page_token()));
  const std::string prefix = ChildPrefix(job->id());
  std::vector<std::pair<std::string, const Checkpoint*>> newest_first;
  for (auto it = tables_.checkpoints.rows().lower_bound(prefix);
       it != tables_.checkpoints.rows().end() && it->first.compare(0, prefix.size(), prefix) == 0;
       ++it) {
    if (it->second.retired() || (!after.empty() && it->first >= after)) continue;
    newest_first.emplace_back(it->first, &it->second.checkpoint());
  }
  std::reverse(newest_first.begin(), newest_first.end());
  ListCheckpointsResponse response;
  for (const auto& [key, checkpoint] : newest_first) {
    if (response.checkpoints_size() == page_size) {
      response.set_next_page_token(
          EncodePageToken(listing, newest_first[static_cast<size_t>(page_size) - 1].first));
      break;
    }
    *response.add_checkpoints() = *checkpoint;
  }
  return response;
}

void ClusterState::AddPromptList(absl::string_view digest, const rows::v1::PromptListRow& row) {
  if (FindPromptList(digest) == nullptr) tables_.prompt_lists.Mutable(digest) = row;
}

std::set<std::string> ClusterState::MissingPromptLists() const {
  std::set<std::string> missing;
  for (const auto& [sequence, id] : live_jobs_) {
    const std::string& digest = tables_.jobs.Find(id)->spec().prompts().digest();
    if (FindPromptList(digest) == nullptr) missing.insert(digest);
  }
  return missing;
}

void ClusterState::StartStage(const std::string& job, Stage stage, Moment now) {
  const auto& stages = tables_.jobs.Find(job)->stages();
  const auto it = stages.find(stage);
  if (it != stages.end() && it->second.has_start_time()) return;
  *(*Touch(job, now).mutable_stages())[stage].mutable_start_time() = ToTimestamp(now.wall);
}

void ClusterState::EndStage(const std::string& job, Stage stage, Moment now) {
  const auto& stages = tables_.jobs.Find(job)->stages();
  const auto it = stages.find(stage);
  if (it != stages.end() && it->second.has_end_time()) return;
  StartStage(job, stage, now);
  *(*Touch(job, now).mutable_stages())[stage].mutable_end_time() = ToTimestamp(now.wall);
}

void ClusterState::ReopenStage(const std::string& job, Stage stage, Moment now) {
  const auto& stages = tables_.jobs.Find(job)->stages();
  const auto it = stages.find(stage);
  if (it == stages.end() || !it->second.has_end_time()) return;
  (*Touch(job, now).mutable_stages())[stage].clear_end_time();
}

void ClusterState::Advance(const std::string& id, Moment now) {
  const JobRow& job = *tables_.jobs.Find(id);
  if (HasEnded(job)) return;
  if (job.desired_state() == Job::DESIRED_STATE_PAUSED && job.state() == Job::STATE_RUNNING &&
      !gangs_.Active(id)) {
    Touch(id, now).set_state(Job::STATE_PAUSED);
  }
  const DatasetState& dataset = datasets_.at(job.dataset());
  const bool simulated =
      dataset.SealedCount(job.spec().simulate().triples()) == job.spec().simulate().triples();
  if (simulated) {
    EndStage(id, STAGE_SIMULATE, now);
  } else {
    ReopenStage(id, STAGE_SIMULATE, now);  // a shard lost triples
  }
  const bool trained = TrainDone(job);
  if (trained) EndStage(id, STAGE_TRAIN, now);
  if (job.has_export_()) EndStage(id, STAGE_EXPORT, now);
  if (job.has_evaluation()) EndStage(id, STAGE_EVALUATE, now);
  // Failures of ranges that somebody else has sealed meanwhile.
  for (const rows::v1::FailureRow* failure : FailuresOf(id)) {
    if (failure->kind() == TASK_KIND_SIMULATE &&
        dataset.sealed().Count(failure->range().begin(), failure->range().end()) ==
            failure->range().end() - failure->range().begin()) {
      tables_.failures.Erase(ChildId(id, failure->task()));
    }
  }
  const bool evaluated = job.spec().evaluate().pictures() == 0 || job.has_evaluation();
  if (simulated && trained && job.has_export_() && evaluated &&
      job.desired_state() == Job::DESIRED_STATE_RUNNING) {
    EndJob(id, Job::STATE_SUCCEEDED, "", now);
  }
}

void ClusterState::AdvanceUsersOf(const std::string& dataset, Moment now) {
  const std::map<int64_t, std::string> live = live_jobs_;  // Advance may end jobs
  for (const auto& [sequence, id] : live) {
    if (tables_.jobs.Find(id)->dataset() == dataset) Advance(id, now);
  }
}

void ClusterState::EndJob(const std::string& id, Job::State state, std::string error, Moment now) {
  JobRow& job = Touch(id, now);
  if (const DatasetState* dataset = FindDataset(job.dataset()); dataset != nullptr) {
    job.set_simulated(dataset->SealedCount(job.spec().simulate().triples()));
  }
  Tell(state == Job::STATE_FAILED ? LogLevel::kError : LogLevel::kInfo, "job ended", id,
       absl::StrCat(StateText(state), error.empty() ? "" : ": ", error));
  job.set_state(state);
  job.set_error(std::move(error));
  ReleaseLeasesOf(id);
  gangs_.Kill(id, now.steady);
  live_jobs_.erase(job.sequence());
  rates_.erase(id);
  trials_.Erase(id);
}

void ClusterState::ReleaseLeasesOf(const std::string& job) {
  for (const int64_t lease : leases_.OfJob(job)) Release(lease);
}

}  // namespace d2g::coordinator

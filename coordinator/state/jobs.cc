#include "coordinator/state/jobs.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "coordinator/spec/dataset_id.h"
#include "coordinator/state/timestamps.h"
#include "services/common/path_policy.h"
#include "services/common/status_macros.h"

namespace d2g::coordinator {

using rows::v1::JobRow;
using v1::Job;
using v1::Stage;

namespace {

const std::string& OutputPath(const JobRow& job) {
  return job.output_path().empty() ? job.spec().output_dir() : job.output_path();
}

bool HasStarted(const JobRow& job, Stage stage) {
  const auto times = job.stages().find(stage);
  return times != job.stages().end() && times->second.has_start_time();
}

bool HasStageEnded(const JobRow& job, Stage stage) {
  const auto times = job.stages().find(stage);
  return times != job.stages().end() && times->second.has_end_time();
}

}  // namespace

bool AtWork(const JobRow& job) {
  return job.state() == Job::STATE_RUNNING && job.desired_state() == Job::DESIRED_STATE_RUNNING;
}

std::string StateText(Job::State state) {
  return absl::AsciiStrToLower(absl::StripPrefix(Job::State_Name(state), "STATE_"));
}

Jobs::Jobs(Table<JobRow> rows) : rows_(std::move(rows)) {
  std::set<int64_t> sequences;
  std::vector<std::string> without_sequence;
  for (const auto& [id, row] : rows_.rows()) {
    next_sequence_ = std::max(next_sequence_, row.sequence() + 1);
    if (!sequences.insert(row.sequence()).second) without_sequence.push_back(id);
  }
  for (const std::string& id : without_sequence) rows_.Mutable(id).set_sequence(next_sequence_++);
  for (const auto& [id, row] : rows_.rows()) Enter(row);
}

void Jobs::Enter(const JobRow& row) {
  by_sequence_[NumberId(row.sequence())] = &row;
  if (!row.request_id().empty()) requests_[row.request_id()] = row.id();
  users_[row.dataset()].insert(row.id());
  ++count_by_state_[row.state()];
  if (HasEnded(row)) return;
  live_[row.sequence()] = &row;
  live_users_[row.dataset()][row.sequence()] = &row;
}

absl::StatusOr<const JobRow*> Jobs::FindByName(absl::string_view name) const {
  D2G_ASSIGN_OR_RETURN(const std::string id, ParseJobName(name));
  const JobRow* job = Find(id);
  if (job == nullptr) return absl::NotFoundError(absl::StrCat("there is no ", name));
  return job;
}

const JobRow* Jobs::FindRequest(absl::string_view request_id) const {
  const auto it = request_id.empty() ? requests_.end() : requests_.find(request_id);
  return it == requests_.end() ? nullptr : Find(it->second);
}

Jobs::Live Jobs::LiveUsersOf(absl::string_view dataset) const {
  const auto it = live_users_.find(dataset);
  return it == live_users_.end() ? Live() : it->second;
}

std::set<std::string> Jobs::UsersOf(absl::string_view dataset) const {
  const auto it = users_.find(dataset);
  return it == users_.end() ? std::set<std::string>() : it->second;
}

int64_t Jobs::CountIn(Job::State state) const {
  const auto it = count_by_state_.find(state);
  return it == count_by_state_.end() ? 0 : it->second;
}

std::vector<KnownOutput> Jobs::EndedOutputs(absl::string_view path) const {
  std::vector<KnownOutput> outputs;
  for (const auto& [id, row] : rows_.rows()) {
    if (HasEnded(row) && !common::RelationOf(path, OutputPath(row)).empty()) {
      outputs.push_back({JobName(id), OutputPath(row)});
    }
  }
  return outputs;
}

std::string Jobs::OutputProblem(const JobProposal& proposal) const {
  const std::string& output = proposal.spec.output_dir();
  const std::string& path = proposal.output_path.empty() ? output : proposal.output_path;
  for (const auto& [sequence, row] : live_) {
    const std::string& other = OutputPath(*row);
    const absl::string_view relation = common::RelationOf(path, other);
    if (relation.empty() && proposal.replaces != JobName(row->id())) continue;
    return absl::StrCat("\"", output, "\" ",
                        path == other ? "" : absl::StrCat(relation, " ", other, ", which "),
                        "is in use by ", JobName(row->id()), ", which has not ended");
  }
  return "";
}

JobRow Jobs::NewRow(std::string id, const JobProposal& proposal,
                    const common::v1::DatasetRecipe& recipe, int64_t reused, Moment now) {
  JobRow row;
  row.set_id(std::move(id));
  row.set_request_id(proposal.request_id);
  *row.mutable_spec() = proposal.spec;
  row.mutable_spec()->mutable_teacher()->set_digest(proposal.teacher.digest);
  row.set_output_path(proposal.output_path);
  row.set_replaces(proposal.replaces);
  row.set_dataset(DatasetId(recipe));
  *row.mutable_recipe() = recipe;
  row.set_desired_state(Job::DESIRED_STATE_RUNNING);
  row.set_state(Job::STATE_RUNNING);
  row.set_reused(reused);
  *row.mutable_create_time() = ToTimestamp(now.wall);
  *row.mutable_update_time() = ToTimestamp(now.wall);
  return row;
}

const JobRow& Jobs::Add(JobRow row) {
  row.set_sequence(next_sequence_++);
  JobRow& kept = rows_.Mutable(row.id());
  kept = std::move(row);
  Enter(kept);
  return kept;
}

JobRow& Jobs::Change(absl::string_view id, Moment now) {
  JobRow& row = rows_.Mutable(id);
  *row.mutable_update_time() = ToTimestamp(now.wall);
  return row;
}

void Jobs::ChangeState(JobRow& row, Job::State state) {
  --count_by_state_[row.state()];
  row.set_state(state);
  ++count_by_state_[row.state()];
}

void Jobs::SetDesiredState(absl::string_view id, Job::DesiredState desired, Moment now) {
  Change(id, now).set_desired_state(desired);
}

void Jobs::SetState(absl::string_view id, Job::State state, Moment now) {
  ChangeState(Change(id, now), state);
}

void Jobs::End(absl::string_view id, Job::State state, std::string error,
               std::optional<int64_t> simulated, Moment now) {
  JobRow& row = Change(id, now);
  if (simulated.has_value()) row.set_simulated(*simulated);
  ChangeState(row, state);
  row.set_error(std::move(error));
  live_.erase(row.sequence());
  const auto users = live_users_.find(row.dataset());
  users->second.erase(row.sequence());
  if (users->second.empty()) live_users_.erase(users);
}

int64_t Jobs::TakeTaskNumber(absl::string_view id, Moment now) {
  JobRow& row = Change(id, now);
  row.set_next_task(row.next_task() + 1);
  return row.next_task() - 1;
}

void Jobs::StartStage(absl::string_view id, Stage stage, Moment now) {
  if (HasStarted(*Find(id), stage)) return;
  *(*Change(id, now).mutable_stages())[stage].mutable_start_time() = ToTimestamp(now.wall);
}

void Jobs::EndStage(absl::string_view id, Stage stage, Moment now) {
  if (HasStageEnded(*Find(id), stage)) return;
  StartStage(id, stage, now);
  *(*Change(id, now).mutable_stages())[stage].mutable_end_time() = ToTimestamp(now.wall);
}

void Jobs::ReopenStage(absl::string_view id, Stage stage, Moment now) {
  if (!HasStageEnded(*Find(id), stage)) return;
  (*Change(id, now).mutable_stages())[stage].clear_end_time();
}

void Jobs::SetReused(absl::string_view id, int64_t triples, Moment now) {
  Change(id, now).set_reused(triples);
}

void Jobs::SetEvaluation(absl::string_view id, const v1::EvaluationReport& report, Moment now) {
  *Change(id, now).mutable_evaluation() = report;
}

void Jobs::SetExport(absl::string_view id, const v1::ExportRecord& record, int64_t files,
                     Moment now) {
  JobRow& row = Change(id, now);
  *row.mutable_export_() = record;
  row.set_exported_files(files);
}

void Jobs::NoteReplaced(absl::string_view id, Moment now) {
  const std::string replaced = Find(id)->replaces();
  if (replaced.empty()) return;
  const auto old = FindByName(replaced);
  if (!old.ok() || (*old)->output_replaced_by() == JobName(id)) return;
  Change((*old)->id(), now).set_output_replaced_by(JobName(id));
}

void Jobs::Erase(absl::string_view id) {
  const JobRow& row = *Find(id);
  by_sequence_.erase(NumberId(row.sequence()));
  requests_.erase(row.request_id());
  const auto users = users_.find(row.dataset());
  users->second.erase(row.id());
  if (users->second.empty()) users_.erase(users);
  --count_by_state_[row.state()];
  rows_.Erase(id);
}

}  // namespace d2g::coordinator

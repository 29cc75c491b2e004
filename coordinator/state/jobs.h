// The jobs: their rows, and which of them are live.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "coordinator/rows/tables.h"
#include "coordinator/spec/job_output.h"
#include "coordinator/spec/job_spec.h"
#include "coordinator/state/moment.h"
#include "d2g/coordinator/v1/job.pb.h"

namespace d2g::coordinator {

// A job whose spec and files were checked.
struct JobProposal {
  // Normalized.
  v1::JobSpec spec;
  TeacherFacts teacher;
  // See JobOutput; an empty path: output_dir as it is.
  std::string output_path;
  std::string replaces;
  std::string request_id;
  bool validate_only = false;
};

// Whether a job runs and is meant to.
bool AtWork(const rows::v1::JobRow& job);
// STATE_CANCELLED as people say it: "cancelled".
std::string StateText(v1::Job::State state);

// Owns the job rows and what is derived from them; a job is *live* until it has ended. Only the
// methods below change a row, and each that does notes `now` as its last change. They take ids of
// jobs that exist. Rows stay where they are until they are erased. Thread-compatible.
class Jobs {
 public:
  using Live = std::map<int64_t, const rows::v1::JobRow*>;         // by order of submission
  using Listing = std::map<std::string, const rows::v1::JobRow*>;  // by NumberId of that order

  // Jobs that share a sequence number (one was set aside and put back after its successor came) get
  // one of their own.
  explicit Jobs(Table<rows::v1::JobRow> rows);
  Jobs(const Jobs&) = delete;
  Jobs& operator=(const Jobs&) = delete;

  // Null when there is none.
  const rows::v1::JobRow* Find(absl::string_view id) const { return rows_.Find(id); }
  // NOT_FOUND, or INVALID_ARGUMENT when the name is none.
  absl::StatusOr<const rows::v1::JobRow*> FindByName(absl::string_view name) const;
  // The job of an earlier submission with this request id; null when there is none, or no id.
  const rows::v1::JobRow* FindRequest(absl::string_view request_id) const;
  const Live& live() const { return live_; }
  // Those that have not ended, and all, that share the dataset.
  Live LiveUsersOf(absl::string_view dataset) const;
  std::set<std::string> UsersOf(absl::string_view dataset) const;
  const Listing& by_sequence() const { return by_sequence_; }
  int64_t CountIn(v1::Job::State state) const;

  // The output folders of ended jobs that are, contain or lie within `path`, which is resolved.
  std::vector<KnownOutput> EndedOutputs(absl::string_view path) const;
  // Which job that has not ended has its output where the proposal would; empty when none has.
  std::string OutputProblem(const JobProposal& proposal) const;

  // The row that Add would keep, but for its sequence: running, submitted now.
  static rows::v1::JobRow NewRow(std::string id, const JobProposal& proposal,
                                 const common::v1::DatasetRecipe& recipe, int64_t reused,
                                 Moment now);
  // REQUIRES: a row of NewRow whose id no job has.
  const rows::v1::JobRow& Add(rows::v1::JobRow row);
  // Notes that something about the job changed.
  void Touch(absl::string_view id, Moment now) { Change(id, now); }
  void SetDesiredState(absl::string_view id, v1::Job::DesiredState desired, Moment now);
  // Between running and paused.
  void SetState(absl::string_view id, v1::Job::State state, Moment now);
  // `simulated`: the triples that it had in the end, where that is known.
  void End(absl::string_view id, v1::Job::State state, std::string error,
           std::optional<int64_t> simulated, Moment now);
  int64_t TakeTaskNumber(absl::string_view id, Moment now);
  // Each does nothing when it is so already.
  void StartStage(absl::string_view id, v1::Stage stage, Moment now);
  void EndStage(absl::string_view id, v1::Stage stage, Moment now);
  void ReopenStage(absl::string_view id, v1::Stage stage, Moment now);
  void SetReused(absl::string_view id, int64_t triples, Moment now);
  void SetEvaluation(absl::string_view id, const v1::EvaluationReport& report, Moment now);
  void SetExport(absl::string_view id, const v1::ExportRecord& record, int64_t files, Moment now);
  // Notes that the job's ranks set aside the output of the job that it replaces.
  void NoteReplaced(absl::string_view id, Moment now);
  // Forgets a job that has ended.
  void Erase(absl::string_view id);

  void TakeChanges(RowChanges* changes) { rows_.TakeChanges(changes); }
  void CopyTo(RowChanges* all) const { rows_.CopyTo(all); }

 private:
  rows::v1::JobRow& Change(absl::string_view id, Moment now);
  void ChangeState(rows::v1::JobRow& row, v1::Job::State state);
  // Enters a row in what is derived.
  void Enter(const rows::v1::JobRow& row);

  Table<rows::v1::JobRow> rows_;
  int64_t next_sequence_ = 1;
  Listing by_sequence_;
  Live live_;
  std::map<std::string, std::string, std::less<>> requests_;         // request id -> job
  std::map<std::string, std::set<std::string>, std::less<>> users_;  // by dataset
  std::map<std::string, Live, std::less<>> live_users_;              // by dataset
  std::map<v1::Job::State, int64_t> count_by_state_;
};

}  // namespace d2g::coordinator

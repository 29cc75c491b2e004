// The coordinator's whole state and every decision about it: pure, without locks, clock or I/O.
//
// Words: a *job* is what a user submitted; its *dataset* is shared by all jobs of the same recipe;
// a *task* is work under a *lease*; a *gang* trains in *generations*. Stages: simulate fills the
// dataset; train runs as soon as enough of it is sealed, and is done when a checkpoint of the last
// step is committed; then export and evaluate tasks are leased; the job has succeeded when all are
// done.
//
// The state is made of parts (cluster_parts.h). Each part owns its rows and what is derived from
// them, and only its own methods change those; it knows no other part. What looks at several parts
// and changes none is a function of const references: views and listings (job_view.h, listings.h),
// the choice of a task (task_choice.h), the demand for gangs (train_demand.h), what is told to
// workers and agents (work_messages.h). What is left for ClusterState is what crosses, which is
//   - an rpc that changes something: it checks, then changes each part that it is about;
//   - time: what has lapsed, and who was silent;
//   - a seal, which counts for every job of the dataset (AdvanceUsersOf);
//   - a gang's event, which may end its job (HandleGangEvents);
//   - the stages of a job, which follow from datasets, checkpoints and results (Advance);
//   - the end of a job, which releases its leases and kills its gang (EndJob).
//
// Each method either refuses and changes nothing, or changes rows and what is derived from them.
// The caller (coordinator.h) takes the changed rows after each call and makes them durable before
// anybody sees the answer. A new state loaded from the rows decides like the old one, but for what
// peers report again: progress, who is alive, rendezvous addresses.
//
// No heartbeat, tick or view of one job looks at all workers, all leases, all jobs that ever were,
// or another job's rows: the parts keep counts and orders instead. A tick looks at each live job
// and at each gang's agent (there are far fewer agents than workers), and so does the view of a job
// that waits for ranks; a shard's heartbeat looks at each dataset.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "coordinator/state/cluster_figures.h"
#include "coordinator/state/cluster_parts.h"
#include "coordinator/state/moment.h"
#include "coordinator/state/notes.h"
#include "coordinator/state/prompt_lists.h"
#include "coordinator/state/row_audit.h"
#include "d2g/coordinator/v1/dataset_service.pb.h"
#include "d2g/coordinator/v1/job_service.pb.h"
#include "d2g/coordinator/v1/shard_service.pb.h"
#include "d2g/coordinator/v1/task_service.pb.h"
#include "d2g/coordinator/v1/training_service.pb.h"

namespace d2g::coordinator {

struct ClusterOptions {
  int32_t shard_count = 1;
  absl::Duration lease_duration = absl::Seconds(60);
  GangOptions gang;
  // The number of this start; makes lease ids unique.
  uint64_t incarnation = 1;
  // Makes a job id; asked again when the id is taken.
  std::function<std::string()> new_job_id;
};

// Thread-compatible.
class ClusterState {
 public:
  // `rows` are all rows on disk. Those that no state can be made from (row_audit.h) are among the
  // first changes, to be set aside, and each has a note.
  static std::unique_ptr<ClusterState> Load(ClusterOptions options, const RowChanges& rows,
                                            Moment now);

  // ---- Jobs (cluster_jobs.cc)
  // The job of an earlier CreateJob with this request id; empty id: NOT_FOUND. ALREADY_EXISTS names
  // what differs when that one asked for something else. REQUIRES: a normal spec.
  absl::StatusOr<v1::Job> FindRequest(absl::string_view request_id, const v1::JobSpec& spec,
                                      Moment now) const;
  absl::StatusOr<v1::Job> CreateJob(const JobProposal& proposal, Moment now);
  absl::StatusOr<v1::Job> GetJob(absl::string_view name, Moment now) const;
  absl::StatusOr<v1::ListJobsResponse> ListJobs(const v1::ListJobsRequest& request,
                                                Moment now) const;
  absl::StatusOr<v1::Job> SetDesiredState(const v1::SetDesiredStateRequest& request, Moment now);
  absl::Status DeleteJob(absl::string_view name);
  absl::StatusOr<v1::ListCheckpointsResponse> ListCheckpoints(
      const v1::ListCheckpointsRequest& request) const;
  absl::StatusOr<v1::ListTasksResponse> ListTasks(const v1::ListTasksRequest& request) const;
  void AddPromptList(absl::string_view digest, const rows::v1::PromptListRow& row) {
    prompt_lists_.Add(digest, row);
  }
  // Digests of prompt lists that jobs which have not ended need and that have no row.
  std::set<std::string> MissingPromptLists() const;

  // ---- Datasets and shards (cluster_datasets.cc)
  absl::StatusOr<v1::Dataset> GetDataset(absl::string_view name, Moment now) const;
  absl::StatusOr<v1::ListDatasetsResponse> ListDatasets(const v1::ListDatasetsRequest& request,
                                                        Moment now) const;
  absl::Status DeleteDataset(absl::string_view name);
  absl::StatusOr<v1::Snapshot> GetOrCreateSnapshot(const v1::GetOrCreateSnapshotRequest& request);
  absl::StatusOr<v1::ShardHeartbeatResponse> ShardHeartbeat(
      const v1::ShardHeartbeatRequest& request, Moment now);
  absl::StatusOr<v1::ReportSealsResponse> ReportSeals(const v1::ReportSealsRequest& request,
                                                      Moment now);

  // ---- Tasks (cluster_tasks.cc)
  absl::StatusOr<v1::LeaseTaskResponse> LeaseTask(const v1::LeaseTaskRequest& request, Moment now);
  absl::StatusOr<v1::HeartbeatTaskResponse> HeartbeatTask(const v1::HeartbeatTaskRequest& request,
                                                          Moment now);
  absl::StatusOr<v1::CompleteTaskResponse> CompleteTask(const v1::CompleteTaskRequest& request,
                                                        Moment now);
  absl::StatusOr<v1::FailTaskResponse> FailTask(const v1::FailTaskRequest& request, Moment now);

  // ---- Training (cluster_training.cc)
  absl::StatusOr<v1::JoinGangResponse> JoinGang(const v1::JoinGangRequest& request, Moment now);
  absl::StatusOr<v1::GangHeartbeatResponse> GangHeartbeat(const v1::GangHeartbeatRequest& request,
                                                          Moment now);
  absl::StatusOr<v1::CommitCheckpointResponse> CommitCheckpoint(
      const v1::CommitCheckpointRequest& request, Moment now);

  // ---- Time (cluster_state.cc)
  // Call with every decision's moment, before it. A gap longer than a few ticks means that this
  // process was suspended: its peers' silence during that time is ignored.
  void NoteTime(absl::Duration now);
  // Lapses leases, drops silent peers, forms gangs, samples rates, moves jobs on.
  void Tick(Moment now);

  // What happened since the last call.
  std::vector<Note> TakeNotes() { return notes_.Take(); }
  // Rows that changed since the last call.
  RowChanges TakeChanges();
  // Every row, as it would be on disk: for comparing two states.
  RowChanges AllRows() const;

  const Jobs& jobs() const { return jobs_; }
  const PromptLists& prompt_lists() const { return prompt_lists_; }
  const Datasets& datasets() const { return datasets_; }
  const LeaseTable& leases() const { return tasks_.leases(); }
  const GangTable& gangs() const { return gangs_; }
  ClusterFigures Figures(Moment now) const;

 private:
  ClusterState(ClusterOptions options, AuditedRows rows, Moment now);
  // Brings the parts in step after they were loaded.
  void Restore(Moment now);
  ClusterParts parts() const {
    return {jobs_, datasets_, snapshots_, checkpoints_, tasks_, workers_, shards_, gangs_, rates_};
  }
  template <typename State, typename Visit>
  static void ForEachPartWithRows(State& state, Visit visit);

  // Notes stages that are done, or no longer are, and ends the job when all are.
  void Advance(const rows::v1::JobRow& job, Moment now);
  // [begin, end) of the dataset was sealed, or a shard has lost something.
  void AdvanceUsersOf(const std::string& dataset, int64_t begin, int64_t end, Moment now);
  // Does nothing when it has ended.
  void EndJob(const rows::v1::JobRow& job, v1::Job::State state, std::string error, Moment now);
  void Release(int64_t lease);
  void LapseLeases(Moment now);
  // Forgets that the lease's range failed where it is sealed meanwhile, by somebody else.
  void ForgetIfSealed(const rows::v1::LeaseRow& lease);
  void SampleRates(const rows::v1::JobRow& job, Moment now);
  absl::Status CompleteSimulate(const rows::v1::JobRow& job, const v1::CompleteTaskRequest& request,
                                Moment now);
  absl::Status CompleteFinal(const rows::v1::JobRow& job, int kind,
                             const v1::CompleteTaskRequest& request, Moment now);
  void NoteLost(const std::string& dataset, int32_t shard, int64_t triples);
  void HandleGangEvents(const GangEvents& events, Moment now);
  void HandleGangEvent(const GangEvent& event, const rows::v1::JobRow& job, Moment now);

  ClusterOptions options_;
  RowChanges set_aside_;  // not handed out yet
  Jobs jobs_;
  PromptLists prompt_lists_;
  Datasets datasets_;
  Snapshots snapshots_;
  Checkpoints checkpoints_;
  Tasks tasks_;
  Workers workers_;
  ShardRegistry shards_;
  GangTable gangs_;
  JobRates rates_;
  absl::Duration last_time_;
  ClusterFigures totals_;
  Notes notes_;
};

}  // namespace d2g::coordinator

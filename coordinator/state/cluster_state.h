// The coordinator's whole state and every decision about it: pure, without locks, clock or I/O.
//
// Words: a *job* is what a user submitted; its *dataset* is shared by all jobs of the same recipe;
// a *task* is work under a *lease*; a *gang* trains in *generations*. Stages: simulate fills the
// dataset; train runs as soon as enough of it is sealed, and is done when a checkpoint of the last
// step is committed; then export and evaluate tasks are leased; the job has succeeded when all are
// done.
//
// Each method either refuses and changes nothing, or changes rows (tables()) and what is derived
// from them. The caller (coordinator.h) takes the changed rows after each call and makes them
// durable before anybody sees the answer. A new state loaded from the rows decides like the old
// one, but for what peers report again: progress, who is alive, rendezvous addresses.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "coordinator/rows/tables.h"
#include "coordinator/spec/job_output.h"
#include "coordinator/spec/job_spec.h"
#include "coordinator/state/dataset_state.h"
#include "coordinator/state/gang_table.h"
#include "coordinator/state/job_trials.h"
#include "coordinator/state/lease_table.h"
#include "coordinator/state/rate_meter.h"
#include "coordinator/state/row_audit.h"
#include "coordinator/state/shard_registry.h"
#include "d2g/coordinator/v1/dataset_service.pb.h"
#include "d2g/coordinator/v1/job_service.pb.h"
#include "d2g/coordinator/v1/shard_service.pb.h"
#include "d2g/coordinator/v1/task_service.pb.h"
#include "d2g/coordinator/v1/training_service.pb.h"
#include "services/common/log.h"

namespace d2g::coordinator {

// When a decision is taken: wall time for records, monotonic time for everything else.
struct Moment {
  absl::Time wall;
  absl::Duration steady;
};

struct ClusterOptions {
  int32_t shard_count = 1;
  absl::Duration lease_duration = absl::Seconds(60);
  GangOptions gang;
  // The number of this start; makes lease ids unique.
  uint64_t incarnation = 1;
  // Makes a job id; asked again when the id is taken.
  std::function<std::string()> new_job_id;
};

// A job whose spec and files were checked.
struct JobProposal {
  // Normalized.
  d2g::coordinator::v1::JobSpec spec;
  TeacherFacts teacher;
  // See JobOutput; an empty path: output_dir as it is.
  std::string output_path;
  std::string replaces;
  std::string request_id;
  bool validate_only = false;
};

// Figures for metrics: totals since the start of the process, and counts as they are.
struct ClusterFigures {
  static constexpr int kKinds = d2g::coordinator::v1::TaskKind_ARRAYSIZE;
  static constexpr int kReasons = d2g::coordinator::v1::FailTaskRequest::Reason_ARRAYSIZE;
  static constexpr int kStates = d2g::coordinator::v1::Job::State_ARRAYSIZE;
  int64_t leased[kKinds] = {};
  int64_t completed[kKinds] = {};
  int64_t lapsed[kKinds] = {};
  int64_t failed[kReasons] = {};
  int64_t triples_sealed = 0;
  int64_t triples_reopened = 0;
  int64_t generations_formed = 0;
  int64_t generations_broken = 0;
  int64_t checkpoints_committed = 0;
  int64_t jobs[kStates] = {};
  int64_t live_leases[kKinds] = {};
  int64_t live_workers = 0;
  int64_t live_shards = 0;
  int64_t agents = 0;
  int64_t ranks_running = 0;
  int64_t training_step = 0;   // of the job that trains; the first one where several do
  int64_t sealed_triples = 0;  // in all datasets
};

// Something that an operator wants in the log. `message` is a constant.
struct Note {
  d2g::common::LogLevel level;
  const char* message;
  std::string job;  // or dataset
  std::string detail;
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
  // what differs when that one asked for something else. REQUIRES: a normalized spec.
  absl::StatusOr<d2g::coordinator::v1::Job> FindRequest(absl::string_view request_id,
                                                        const d2g::coordinator::v1::JobSpec& spec,
                                                        Moment now) const;
  absl::StatusOr<d2g::coordinator::v1::Job> CreateJob(const JobProposal& proposal, Moment now);
  // The output folders of ended jobs that are, contain or lie within `path`, which is resolved.
  std::vector<KnownOutput> EndedOutputs(absl::string_view path) const;
  // Which job that has not ended has its output where the proposal would; empty when none has.
  std::string OutputProblem(const JobProposal& proposal) const;
  absl::StatusOr<d2g::coordinator::v1::Job> GetJob(absl::string_view name, Moment now) const;
  absl::StatusOr<d2g::coordinator::v1::ListJobsResponse> ListJobs(
      const d2g::coordinator::v1::ListJobsRequest& request, Moment now) const;
  absl::StatusOr<d2g::coordinator::v1::Job> SetDesiredState(
      const d2g::coordinator::v1::SetDesiredStateRequest& request, Moment now);
  absl::Status DeleteJob(absl::string_view name);
  absl::StatusOr<d2g::coordinator::v1::ListCheckpointsResponse> ListCheckpoints(
      const d2g::coordinator::v1::ListCheckpointsRequest& request) const;
  absl::StatusOr<d2g::coordinator::v1::ListTasksResponse> ListTasks(
      const d2g::coordinator::v1::ListTasksRequest& request) const;
  // Null when it was never uploaded.
  const rows::v1::PromptListRow* FindPromptList(absl::string_view digest) const {
    return tables_.prompt_lists.Find(digest);
  }
  void AddPromptList(absl::string_view digest, const rows::v1::PromptListRow& row);
  // Digests of prompt lists that jobs which have not ended need and that have no row.
  std::set<std::string> MissingPromptLists() const;

  // ---- Datasets and shards (cluster_datasets.cc)
  absl::StatusOr<d2g::coordinator::v1::Dataset> GetDataset(absl::string_view name,
                                                           Moment now) const;
  absl::StatusOr<d2g::coordinator::v1::ListDatasetsResponse> ListDatasets(
      const d2g::coordinator::v1::ListDatasetsRequest& request, Moment now) const;
  absl::Status DeleteDataset(absl::string_view name);
  absl::StatusOr<d2g::coordinator::v1::Snapshot> GetOrCreateSnapshot(
      const d2g::coordinator::v1::GetOrCreateSnapshotRequest& request);
  absl::StatusOr<d2g::coordinator::v1::ShardHeartbeatResponse> ShardHeartbeat(
      const d2g::coordinator::v1::ShardHeartbeatRequest& request, Moment now);
  absl::StatusOr<d2g::coordinator::v1::ReportSealsResponse> ReportSeals(
      const d2g::coordinator::v1::ReportSealsRequest& request, Moment now);

  // ---- Tasks (cluster_tasks.cc)
  absl::StatusOr<d2g::coordinator::v1::LeaseTaskResponse> LeaseTask(
      const d2g::coordinator::v1::LeaseTaskRequest& request, Moment now);
  absl::StatusOr<d2g::coordinator::v1::HeartbeatTaskResponse> HeartbeatTask(
      const d2g::coordinator::v1::HeartbeatTaskRequest& request, Moment now);
  absl::StatusOr<d2g::coordinator::v1::CompleteTaskResponse> CompleteTask(
      const d2g::coordinator::v1::CompleteTaskRequest& request, Moment now);
  absl::StatusOr<d2g::coordinator::v1::FailTaskResponse> FailTask(
      const d2g::coordinator::v1::FailTaskRequest& request, Moment now);

  // ---- Training (cluster_training.cc)
  absl::StatusOr<d2g::coordinator::v1::JoinGangResponse> JoinGang(
      const d2g::coordinator::v1::JoinGangRequest& request, Moment now);
  absl::StatusOr<d2g::coordinator::v1::GangHeartbeatResponse> GangHeartbeat(
      const d2g::coordinator::v1::GangHeartbeatRequest& request, Moment now);
  absl::StatusOr<d2g::coordinator::v1::CommitCheckpointResponse> CommitCheckpoint(
      const d2g::coordinator::v1::CommitCheckpointRequest& request, Moment now);

  // ---- Time (cluster_state.cc)
  // To be called with every decision's moment, before it: a gap longer than a few ticks means that
  // this process stood still, and then nobody is blamed for silence.
  void NoteTime(absl::Duration now);
  // Lapses leases, drops silent peers, forms gangs, samples rates, moves jobs on.
  void Tick(Moment now);

  // What happened since the last call.
  std::vector<Note> TakeNotes() { return std::exchange(notes_, {}); }

  // Rows that changed since the last call.
  RowChanges TakeChanges();

  const Tables& tables() const { return tables_; }
  const DatasetState* FindDataset(absl::string_view id) const;
  const LeaseTable& leases() const { return leases_; }
  const GangTable& gangs() const { return gangs_; }
  ClusterFigures Figures(Moment now) const;

 private:
  struct Worker {
    std::string node;
    bool has_gpu = false;
    std::set<int> kinds;
    absl::Duration last_seen;
    int64_t unreported_lease = 0;  // granted, and nothing was heard of it yet
  };
  // What a live job's rates are measured with; not persisted.
  struct Rates {
    std::vector<RateMeter> by_stage;
    // The generation whose steps are measured; 0: none runs.
    int64_t generation = 0;
    Rates();
  };

  ClusterState(ClusterOptions options, AuditedRows rows, Moment now);
  // Derives from the rows what is not one.
  void Restore(Moment now);
  void SampleRates(const rows::v1::JobRow& job, Moment now);

  void Tell(d2g::common::LogLevel level, const char* message, std::string job, std::string detail) {
    notes_.push_back({level, message, std::move(job), std::move(detail)});
  }

  // Jobs.
  absl::StatusOr<const rows::v1::JobRow*> FindJob(absl::string_view name) const;
  rows::v1::JobRow& Touch(absl::string_view job, Moment now);
  bool AtWork(const rows::v1::JobRow& job) const;
  // Notes that the job's ranks set aside what it replaces.
  void NoteReplaced(const std::string& job, Moment now);
  d2g::coordinator::v1::Job View(const rows::v1::JobRow& job, Moment now) const;
  void AddStages(const rows::v1::JobRow& job, d2g::coordinator::v1::Job* view) const;
  void AddHealth(const rows::v1::JobRow& job, Moment now, d2g::coordinator::v1::Job* view) const;
  void AddTrainHealth(const rows::v1::JobRow& job, Moment now,
                      d2g::coordinator::v1::Job* view) const;
  void AddTaskHealth(const rows::v1::JobRow& job, d2g::coordinator::v1::Job* view) const;
  // Whether the store is all that the task still waits for.
  bool WaitsForStore(const rows::v1::FailureRow& failure) const;
  void StartStage(const std::string& job, d2g::coordinator::v1::Stage stage, Moment now);
  void EndStage(const std::string& job, d2g::coordinator::v1::Stage stage, Moment now);
  void ReopenStage(const std::string& job, d2g::coordinator::v1::Stage stage, Moment now);
  // Notes stages that are done, or no longer are, and ends the job when all are.
  void Advance(const std::string& job, Moment now);
  void AdvanceUsersOf(const std::string& dataset, Moment now);
  void EndJob(const std::string& job, d2g::coordinator::v1::Job::State state, std::string error,
              Moment now);
  void ReleaseLeasesOf(const std::string& job);
  int64_t LeasedDone(const rows::v1::JobRow& job) const;

  // Datasets.
  absl::StatusOr<std::string> FindDatasetId(absl::string_view name) const;
  DatasetState& EnsureDataset(const std::string& id, const d2g::common::v1::DatasetRecipe& recipe,
                              Moment now);
  void SaveSeals(const std::string& dataset, int32_t shard);
  d2g::coordinator::v1::Dataset DatasetView(const std::string& id, Moment now) const;
  void ClearShard(const std::string& dataset, int32_t shard, Moment now);

  // Tasks.
  Worker& NoteWorker(const d2g::coordinator::v1::WorkerInfo& worker, Moment now);
  // Whether a live worker takes such tasks on a node that is none of these.
  bool Offered(int kind, const std::set<std::string>& other_than_nodes, Moment now) const;
  // Whether the job's triples are computed in half precision, which only GPUs do; whether a worker
  // with one simulates now.
  bool NeedsGpu(const rows::v1::JobRow& job) const;
  bool GpuSimulates(Moment now) const;
  std::vector<const rows::v1::FailureRow*> FailuresOf(absl::string_view job) const;
  bool Avoid(const rows::v1::FailureRow& failure, const Worker& worker, Moment now) const;
  // Whether the task waits out its back-off or had better run on another node.
  bool Waits(const rows::v1::FailureRow& failure, const Worker& worker, Moment now) const;
  // The row of a lease's task, for noting a failure or a lapse.
  rows::v1::FailureRow& FailureOf(const rows::v1::LeaseRow& lease);
  const rows::v1::LeaseRow* LeaseOf(absl::string_view job, int kind) const;
  bool Runnable(const rows::v1::JobRow& job, int kind) const;
  // Fills in a lease of the job for the worker; false when there is none now.
  bool Pick(const rows::v1::JobRow& job, int kind, const Worker& worker, Moment now,
            rows::v1::LeaseRow* lease) const;
  bool PickSimulate(const rows::v1::JobRow& job, const Worker& worker, Moment now,
                    rows::v1::LeaseRow* lease) const;
  bool PickFinal(const rows::v1::JobRow& job, int kind, const Worker& worker, Moment now,
                 rows::v1::LeaseRow* lease) const;
  // The lease that the worker gets now, not yet granted: jobs in the order of their submission,
  // those on trial last.
  std::optional<rows::v1::LeaseRow> Choose(const Worker& worker, Moment now) const;
  d2g::coordinator::v1::Task MakeTask(const rows::v1::LeaseRow& lease) const;
  void Release(int64_t lease_id);
  void LapseLeases(Moment now);
  absl::Status CompleteSimulate(const rows::v1::JobRow& job,
                                const d2g::coordinator::v1::CompleteTaskRequest& request,
                                Moment now);

  // Training.
  const d2g::coordinator::v1::Checkpoint* LastCheckpoint(absl::string_view job) const;
  bool TrainDone(const rows::v1::JobRow& job) const;
  // What the job's epochs read.
  dataset::IntervalSet SnapshotIndices(absl::string_view job) const;
  // Shards that are down and hold triples of the job.
  std::vector<int32_t> AwaitedShards(const rows::v1::JobRow& job, Moment now) const;
  // Whether the job has no generation and one may begin.
  bool WantsGeneration(const rows::v1::JobRow& job, Moment now) const;
  std::vector<TrainDemand> Demands(Moment now) const;
  void HandleGangEvents(const GangEvents& events, Moment now);
  std::vector<std::string> RetireCheckpoints(const rows::v1::JobRow& job);

  ClusterOptions options_;
  RowChanges set_aside_;  // not handed out yet
  Tables tables_;
  std::map<std::string, DatasetState, std::less<>> datasets_;
  LeaseTable leases_;
  ShardRegistry shards_;
  GangTable gangs_;
  std::map<int64_t, std::string> live_jobs_;  // by sequence: those that have not ended
  int64_t next_sequence_ = 1;
  std::map<std::string, std::string, std::less<>> requests_;  // request id -> job
  std::map<std::string, Worker, std::less<>> workers_;
  std::map<std::string, Rates, std::less<>> rates_;
  JobTrials trials_;
  // Back-off of tasks that failed, by id of their failure row; not persisted.
  std::map<std::string, absl::Duration, std::less<>> not_before_;
  // When tasks first had a counted failure, likewise; a restart begins anew.
  std::map<std::string, absl::Duration, std::less<>> first_failed_;
  std::map<std::string, int> unlisted_;  // heartbeats of a shard without a dataset that it had
  absl::Duration last_time_;
  ClusterFigures totals_;
  std::vector<Note> notes_;
};

}  // namespace d2g::coordinator

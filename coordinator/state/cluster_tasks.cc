// Tasks: what is leased, and what comes of it.
#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "coordinator/rows/limits.h"
#include "coordinator/state/cluster_state.h"
#include "coordinator/state/page_token.h"
#include "coordinator/state/task_backoff.h"
#include "coordinator/state/timestamps.h"
#include "services/common/output_folder.h"
#include "services/common/status_macros.h"
#include "services/common/utf8.h"

namespace d2g::coordinator {

using namespace d2g::coordinator::v1;  // NOLINT: the resources that this file is about
using d2g::common::LogLevel;
using rows::v1::FailureRow;
using rows::v1::JobRow;
using rows::v1::LeaseRow;

namespace {

absl::Status CheckText(absl::string_view field, absl::string_view value, bool required) {
  if ((!required || !value.empty()) && value.size() <= kMaxIdBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      field, ": has ", value.size(), " bytes; must have ", required ? 1 : 0, " to ", kMaxIdBytes));
}

absl::Status CheckWorker(const WorkerInfo& worker) {
  D2G_RETURN_IF_ERROR(CheckText("worker.id", worker.id(), true));
  D2G_RETURN_IF_ERROR(CheckText("worker.node", worker.node(), true));
  D2G_RETURN_IF_ERROR(CheckText("worker.device", worker.device(), false));
  return CheckText("worker.build", worker.build(), false);
}

std::string Describe(int kind, const d2g::common::v1::IndexRange& range) {
  switch (kind) {
    case TASK_KIND_SIMULATE:
      return absl::StrCat("simulate [", range.begin(), ", ", range.end(), ")");
    case TASK_KIND_EVALUATE:
      return "evaluate";
    default:
      return "export";
  }
}

// The last message of each node, in the order in which they first failed.
std::string ReasonsByNode(const FailureRow& failure) {
  std::vector<std::pair<std::string, std::string>> last;
  for (const auto& reason : failure.reasons()) {
    const auto known = std::find_if(
        last.begin(), last.end(), [&](const auto& entry) { return entry.first == reason.node(); });
    if (known == last.end()) {
      last.emplace_back(reason.node(), reason.message());
    } else {
      known->second = reason.message();
    }
  }
  return absl::StrJoin(last, "; ", [](std::string* out, const auto& entry) {
    absl::StrAppend(out, "[node ", entry.first, "] ", entry.second);
  });
}

Stage StageOf(int kind) {
  switch (kind) {
    case TASK_KIND_SIMULATE:
      return STAGE_SIMULATE;
    case TASK_KIND_EVALUATE:
      return STAGE_EVALUATE;
    default:
      return STAGE_EXPORT;
  }
}

}  // namespace

absl::StatusOr<LeaseTaskResponse> ClusterState::LeaseTask(const LeaseTaskRequest& request,
                                                          Moment now) {
  D2G_RETURN_IF_ERROR(CheckWorker(request.worker()));
  if (request.kinds().empty()) {
    return absl::InvalidArgumentError("kinds: is empty; name at least one kind of task");
  }
  Worker& worker = NoteWorker(request.worker(), now);
  worker.kinds.clear();
  for (const int kind : request.kinds()) {
    if (kind != TASK_KIND_UNSPECIFIED && TaskKind_IsValid(kind)) worker.kinds.insert(kind);
  }
  LeaseTaskResponse response;
  // The answer to an earlier call may have got lost: the same lease again.
  if (const LeaseRow* unreported = leases_.Find(worker.unreported_lease);
      worker.unreported_lease != 0 && unreported != nullptr &&
      worker.kinds.contains(unreported->kind())) {
    *response.mutable_task() = MakeTask(*unreported);
    return response;
  }
  std::optional<LeaseRow> lease = Choose(worker, now);
  if (!lease.has_value()) {
    *response.mutable_poll_after() = ToProtoDuration(kPollAfter);
    return response;
  }
  const std::string id = lease->job();
  const int kind = lease->kind();
  *lease->mutable_worker() = request.worker();
  if (lease->task() < 0) {
    JobRow& row = Touch(id, now);
    lease->set_task(row.next_task());
    row.set_next_task(row.next_task() + 1);
  }
  if (kind == TASK_KIND_SIMULATE) {
    datasets_.at(lease->dataset()).Lease(lease->range().begin(), lease->range().end());
  }
  StartStage(id, StageOf(kind), now);
  worker.unreported_lease = leases_.Grant(*std::move(lease), now.steady);
  ++totals_.leased[kind];
  *response.mutable_task() = MakeTask(*leases_.Find(worker.unreported_lease));
  return response;
}

std::optional<LeaseRow> ClusterState::Choose(const Worker& worker, Moment now) const {
  for (const bool behind : {false, true}) {
    for (const auto& [sequence, id] : live_jobs_) {
      const JobRow& job = *tables_.jobs.Find(id);
      if (!AtWork(job)) continue;
      for (const int kind : {TASK_KIND_EXPORT, TASK_KIND_EVALUATE, TASK_KIND_SIMULATE}) {
        if (!worker.kinds.contains(kind)) continue;
        if (trials_.StandsBehind(id, kind, now.steady) != behind) continue;
        LeaseRow lease;
        if (!Pick(job, kind, worker, now, &lease)) continue;
        lease.set_job(id);
        lease.set_kind(static_cast<TaskKind>(kind));
        lease.set_dataset(job.dataset());
        return lease;
      }
    }
  }
  return std::nullopt;
}

Task ClusterState::MakeTask(const LeaseRow& lease) const {
  const JobRow& job = *tables_.jobs.Find(lease.job());
  const DatasetState& dataset = datasets_.at(lease.dataset());
  Task task;
  task.set_name(TaskName(lease.job(), lease.task()));
  task.set_lease_id(lease.lease_id());
  *task.mutable_lease_duration() = ToProtoDuration(leases_.duration());
  *task.mutable_heartbeat_interval() =
      ToProtoDuration(std::min(kMaxTaskHeartbeat, leases_.duration() / 12));
  switch (lease.kind()) {
    case TASK_KIND_SIMULATE: {
      SimulateWork& work = *task.mutable_simulate();
      work.set_dataset(DatasetName(lease.dataset()));
      *work.mutable_recipe() = dataset.recipe();
      *work.mutable_range() = lease.range();
      work.set_range_epoch(lease.range_epoch());
      if (const auto* shard = shards_.Find(dataset.ShardOf(lease.range().begin()))) {
        *work.mutable_shard() = *shard;
      }
      work.set_teacher_path(job.spec().teacher().path());
      work.set_batch_size(job.spec().simulate().batch_size());
      break;
    }
    case TASK_KIND_EVALUATE: {
      EvaluateWork& work = *task.mutable_evaluate();
      work.set_job(JobName(lease.job()));
      *work.mutable_spec() = job.spec();
      work.set_dataset(DatasetName(lease.dataset()));
      *work.mutable_recipe() = dataset.recipe();
      work.set_checkpoint_path(lease.checkpoint_path());
      work.set_checkpoint_step(lease.checkpoint_step());
      for (const auto& shard : shards_.KnownShards()) *work.add_shards() = shard;
      dataset::AppendRanges(dataset.sealed(), 0, job.spec().simulate().triples(),
                            work.mutable_sealed());
      break;
    }
    default: {
      ExportWork& work = *task.mutable_export_();
      work.set_job(JobName(lease.job()));
      *work.mutable_spec() = job.spec();
      work.set_dataset(DatasetName(lease.dataset()));
      *work.mutable_recipe() = dataset.recipe();
      work.set_checkpoint_path(lease.checkpoint_path());
      work.set_checkpoint_step(lease.checkpoint_step());
      work.set_export_path(d2g::common::ExportFolder(job.spec().output_dir()));
      break;
    }
  }
  return task;
}

void ClusterState::Release(int64_t lease_id) {
  const LeaseRow* lease = leases_.Find(lease_id);
  if (lease == nullptr) return;
  if (lease->kind() == TASK_KIND_SIMULATE) {
    datasets_.at(lease->dataset()).Release(lease->range().begin(), lease->range().end());
  }
  if (const auto worker = workers_.find(lease->worker().id());
      worker != workers_.end() && worker->second.unreported_lease == lease_id) {
    worker->second.unreported_lease = 0;
  }
  leases_.Erase(lease_id);
}

absl::StatusOr<HeartbeatTaskResponse> ClusterState::HeartbeatTask(
    const HeartbeatTaskRequest& request, Moment now) {
  D2G_ASSIGN_OR_RETURN(const ParsedTaskName name, ParseTaskName(request.task()));
  HeartbeatTaskResponse response;
  const LeaseRow* lease = leases_.Find(request.lease_id());
  if (lease == nullptr || lease->job() != name.job || lease->task() != name.task) {
    response.set_revoked(true);
    return response;
  }
  if (const LeaseTable::Progress& before = *leases_.FindProgress(request.lease_id());
      lease->kind() == TASK_KIND_SIMULATE && before.total > 0 && request.done() > before.done) {
    shards_.NoteDurable(datasets_.at(lease->dataset()).ShardOf(lease->range().begin()));
    trials_.NoteProgress(name.job, lease->kind(), lease->worker().node());
  }
  leases_.Renew(request, now.steady);
  Worker& worker = NoteWorker(lease->worker(), now);
  worker.kinds.insert(lease->kind());
  if (worker.unreported_lease == request.lease_id()) worker.unreported_lease = 0;
  return response;
}

absl::Status ClusterState::CompleteSimulate(const JobRow& job, const CompleteTaskRequest& request,
                                            Moment now) {
  const auto dataset = datasets_.find(job.dataset());
  if (dataset == datasets_.end()) {
    return absl::NotFoundError(
        absl::StrCat(DatasetName(job.dataset()), " of ", request.task(), " was deleted"));
  }
  const auto& sealed = request.simulate().sealed();
  D2G_ASSIGN_OR_RETURN(const int64_t added,
                       dataset->second.MergeSeal(sealed.range(), sealed.digest()));
  totals_.triples_sealed += added;
  shards_.NoteDurable(dataset->second.ShardOf(sealed.range().begin()));
  if (added > 0) SaveSeals(job.dataset(), dataset->second.ShardOf(sealed.range().begin()));
  Release(request.lease_id());
  AdvanceUsersOf(job.dataset(), now);
  return absl::OkStatus();
}

absl::StatusOr<CompleteTaskResponse> ClusterState::CompleteTask(const CompleteTaskRequest& request,
                                                                Moment now) {
  D2G_ASSIGN_OR_RETURN(const ParsedTaskName name, ParseTaskName(request.task()));
  const JobRow* job = tables_.jobs.Find(name.job);
  if (job == nullptr) return absl::NotFoundError(absl::StrCat("there is no ", JobName(name.job)));
  const LeaseRow* lease = leases_.Find(request.lease_id());
  if (lease != nullptr && (lease->job() != name.job || lease->task() != name.task)) {
    return absl::InvalidArgumentError(
        absl::StrCat("lease_id: ", request.lease_id(), " is not a lease of ", request.task()));
  }
  const int kind = request.has_simulate()   ? TASK_KIND_SIMULATE
                   : request.has_evaluate() ? TASK_KIND_EVALUATE
                   : request.has_export_()  ? TASK_KIND_EXPORT
                                            : TASK_KIND_UNSPECIFIED;
  if (kind == TASK_KIND_UNSPECIFIED || (lease != nullptr && lease->kind() != kind)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "result: does not fit ", request.task(),
        lease == nullptr ? "" : absl::StrCat(", which is ", TaskKind_Name(lease->kind()))));
  }
  const bool held = lease != nullptr;
  if (kind == TASK_KIND_SIMULATE) {
    D2G_RETURN_IF_ERROR(CompleteSimulate(*job, request, now));
  } else if (!HasEnded(*job)) {
    const int64_t step = kind == TASK_KIND_EVALUATE ? request.evaluate().checkpoint_step()
                                                    : request.export_().checkpoint_step();
    if (step != job->spec().train().steps() || !TrainDone(*job)) {
      return absl::InvalidArgumentError(absl::StrCat("result.checkpoint_step: ", step,
                                                     " is not the job's last step ",
                                                     job->spec().train().steps()));
    }
    // The first result counts; whoever else works on it is told to stop.
    if (kind == TASK_KIND_EVALUATE && !job->has_evaluation()) {
      JobRow& row = Touch(name.job, now);
      *row.mutable_evaluation() = request.evaluate();
    } else if (kind == TASK_KIND_EXPORT && !job->has_export_()) {
      JobRow& row = Touch(name.job, now);
      *row.mutable_export_() = request.export_();
      row.set_exported_files(request.total() > 0 || !held
                                 ? request.total()
                                 : leases_.FindProgress(request.lease_id())->total);
    }
    while (const LeaseRow* other = LeaseOf(name.job, kind)) Release(other->lease_id());
    for (const FailureRow* failure : FailuresOf(name.job)) {
      if (failure->kind() == kind) tables_.failures.Erase(ChildId(name.job, failure->task()));
    }
    Advance(name.job, now);
  }
  trials_.NoteProgress(name.job, kind, request.worker().node());
  if (held) ++totals_.completed[kind];
  return CompleteTaskResponse();
}

absl::StatusOr<FailTaskResponse> ClusterState::FailTask(const FailTaskRequest& request,
                                                        Moment now) {
  D2G_ASSIGN_OR_RETURN(const ParsedTaskName name, ParseTaskName(request.task()));
  const LeaseRow* found = leases_.Find(request.lease_id());
  if (found == nullptr || found->job() != name.job || found->task() != name.task) {
    return FailTaskResponse();  // lapsed or revoked meanwhile: nothing to give back
  }
  const LeaseRow lease = *found;
  Release(request.lease_id());
  const FailTaskRequest::Reason reason = FailTaskRequest::Reason_IsValid(request.reason())
                                             ? request.reason()
                                             : FailTaskRequest::REASON_UNSPECIFIED;
  ++totals_.failed[reason];
  if (reason == FailTaskRequest::REASON_PREEMPTED) return FailTaskResponse();
  const std::string message =
      d2g::common::ValidUtf8(request.message(), d2g::common::kMaxFailureBytes);
  const std::string what = Describe(lease.kind(), lease.range());
  Tell(LogLevel::kWarn, "task failed", name.job,
       absl::StrCat(what, " on node ", lease.worker().node(), ": ", message));
  if (reason == FailTaskRequest::REASON_BAD_INPUT) {
    EndJob(name.job, Job::STATE_FAILED,
           absl::StrCat(what, " on node ", lease.worker().node(), ": ", message), now);
    return FailTaskResponse();
  }
  FailureRow& failure = FailureOf(lease);
  failure.set_last_error(absl::StrCat("node ", lease.worker().node(), ": ", message));
  if (reason == FailTaskRequest::REASON_STORE_UNAVAILABLE) {
    failure.set_store_failures(failure.store_failures() + 1);
    if (lease.kind() == TASK_KIND_SIMULATE) {
      // Its other ranges would fare alike.
      shards_.NoteRefusal(datasets_.at(lease.dataset()).ShardOf(lease.range().begin()), now.steady);
    } else {
      not_before_[ChildId(lease.job(), lease.task())] =
          now.steady + TaskBackoff(failure.store_failures());
    }
    return FailTaskResponse();
  }
  trials_.NoteFailure(name.job, lease.kind(), lease.worker().node(), now.steady);
  auto& entry = *failure.add_reasons();
  entry.set_node(lease.worker().node());
  entry.set_message(message);
  const std::string id = ChildId(lease.job(), lease.task());
  not_before_[id] = now.steady + TaskBackoff(failure.reasons_size());
  const absl::Duration first = first_failed_.try_emplace(id, now.steady).first->second;
  if (failure.reasons_size() >= kMaxTaskFailures && now.steady - first >= kTaskFailureSpan) {
    EndJob(name.job, Job::STATE_FAILED,
           absl::StrCat(what, " failed ", failure.reasons_size(), " times in ",
                        absl::FormatDuration(absl::Trunc(now.steady - first, absl::Seconds(1))),
                        ": ", ReasonsByNode(failure)),
           now);
  }
  return FailTaskResponse();
}

void ClusterState::LapseLeases(Moment now) {
  for (const int64_t id : leases_.Lapsed(now.steady)) {
    const LeaseRow lease = *leases_.Find(id);
    FailureRow& failure = FailureOf(lease);
    failure.set_lapses(failure.lapses() + 1);
    failure.set_last_error(absl::StrCat("worker ", lease.worker().id(), " on node ",
                                        lease.worker().node(), " made no progress for ",
                                        absl::FormatDuration(leases_.duration())));
    trials_.NoteLapse(lease.job(), lease.kind(), now.steady);
    ++totals_.lapsed[lease.kind()];
    Tell(LogLevel::kWarn, "lease lapsed", lease.job(),
         absl::StrCat(Describe(lease.kind(), lease.range()), ": ", failure.last_error()));
    Release(id);
  }
}

absl::StatusOr<ListTasksResponse> ClusterState::ListTasks(const ListTasksRequest& request) const {
  D2G_ASSIGN_OR_RETURN(const int page_size, PageSize(request.page_size()));
  D2G_ASSIGN_OR_RETURN(const JobRow* job, FindJob(request.parent()));
  const std::string listing = absl::StrCat(request.parent(), "/tasks");
  D2G_ASSIGN_OR_RETURN(const std::string after, DecodePageToken(listing, request.page_token()));
  std::map<std::string, TaskInfo> tasks;  // by number
  for (const FailureRow* failure : FailuresOf(job->id())) {
    TaskInfo& info = tasks[NumberId(failure->task())];
    info.set_name(TaskName(job->id(), failure->task()));
    info.set_description(Describe(failure->kind(), failure->range()));
    info.set_failures(failure->reasons_size());
    info.set_last_error(failure->last_error());
  }
  for (const int64_t id : leases_.OfJob(job->id())) {
    const LeaseRow& lease = *leases_.Find(id);
    const LeaseTable::Progress& progress = *leases_.FindProgress(id);
    TaskInfo& info = tasks[NumberId(lease.task())];
    info.set_name(TaskName(job->id(), lease.task()));
    info.set_description(Describe(lease.kind(), lease.range()));
    info.set_worker(lease.worker().id());
    info.set_phase(progress.phase);
    info.set_progress(std::max<int64_t>(0, progress.progress));
  }
  ListTasksResponse response;
  std::string last;
  for (auto it = tasks.upper_bound(after); it != tasks.end(); ++it) {
    if (response.tasks_size() == page_size) {
      response.set_next_page_token(EncodePageToken(listing, last));
      break;
    }
    *response.add_tasks() = it->second;
    last = it->first;
  }
  return response;
}

}  // namespace d2g::coordinator

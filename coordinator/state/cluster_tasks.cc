// Tasks: what is leased, and what comes of it.
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/rows/limits.h"
#include "coordinator/state/cluster_state.h"
#include "coordinator/state/task_choice.h"
#include "coordinator/state/timestamps.h"
#include "coordinator/state/work_messages.h"
#include "services/common/status_macros.h"
#include "services/common/utf8.h"

namespace d2g::coordinator {

using rows::v1::JobRow;
using rows::v1::LeaseRow;
using v1::FailTaskRequest;
using v1::FailTaskResponse;

namespace {

int KindOfResult(const v1::CompleteTaskRequest& request) {
  if (request.has_simulate()) return v1::TASK_KIND_SIMULATE;
  if (request.has_evaluate()) return v1::TASK_KIND_EVALUATE;
  return request.has_export_() ? v1::TASK_KIND_EXPORT : v1::TASK_KIND_UNSPECIFIED;
}

bool IsOf(const LeaseRow& lease, const ParsedTaskName& name) {
  return lease.job() == name.job && lease.task() == name.task;
}

}  // namespace

absl::StatusOr<v1::LeaseTaskResponse> ClusterState::LeaseTask(const v1::LeaseTaskRequest& request,
                                                              Moment now) {
  D2G_RETURN_IF_ERROR(CheckWorker(request.worker()));
  if (request.kinds().empty()) {
    return absl::InvalidArgumentError("kinds: is empty; name at least one kind of task");
  }
  std::set<int> kinds;
  for (const int kind : request.kinds()) {
    if (kind != v1::TASK_KIND_UNSPECIFIED && v1::TaskKind_IsValid(kind)) kinds.insert(kind);
  }
  const Worker& worker = workers_.See(request.worker(), std::move(kinds), now.steady);
  v1::LeaseTaskResponse response;
  // The answer to an earlier call may have got lost: the same lease again.
  if (const LeaseRow* unreported = tasks_.leases().Unreported(request.worker().id());
      unreported != nullptr && worker.kinds.contains(unreported->kind())) {
    *response.mutable_task() = TaskMessage(*unreported, parts());
    return response;
  }
  std::optional<LeaseRow> lease = ChooseTask(worker, parts(), now.steady);
  if (!lease.has_value()) {
    *response.mutable_poll_after() = ToProtoDuration(kPollAfter);
    return response;
  }
  *lease->mutable_worker() = request.worker();
  if (lease->task() < 0) lease->set_task(jobs_.TakeTaskNumber(lease->job(), now));
  if (lease->kind() == v1::TASK_KIND_SIMULATE) datasets_.Lease(*lease);
  jobs_.StartStage(lease->job(), FactsOf(lease->kind()).stage, now);
  ++totals_.leased[lease->kind()];
  const int64_t id = tasks_.Grant(*std::move(lease), now.steady);
  *response.mutable_task() = TaskMessage(*tasks_.leases().Find(id), parts());
  return response;
}

absl::StatusOr<v1::HeartbeatTaskResponse> ClusterState::HeartbeatTask(
    const v1::HeartbeatTaskRequest& request, Moment now) {
  D2G_ASSIGN_OR_RETURN(const ParsedTaskName name, ParseTaskName(request.task()));
  v1::HeartbeatTaskResponse response;
  const LeaseRow* lease = tasks_.leases().Find(request.lease_id());
  if (lease == nullptr || !IsOf(*lease, name)) {
    response.set_revoked(true);
    return response;
  }
  if (tasks_.Renew(request, now.steady)) {
    shards_.NoteDurable(datasets_.At(lease->dataset()).ShardOf(lease->range().begin()));
  }
  workers_.SeeAtWork(lease->worker(), lease->kind(), now.steady);
  return response;
}

absl::StatusOr<v1::CompleteTaskResponse> ClusterState::CompleteTask(
    const v1::CompleteTaskRequest& request, Moment now) {
  D2G_ASSIGN_OR_RETURN(const ParsedTaskName name, ParseTaskName(request.task()));
  const JobRow* job = jobs_.Find(name.job);
  if (job == nullptr) return absl::NotFoundError(absl::StrCat("there is no ", JobName(name.job)));
  const LeaseRow* lease = tasks_.leases().Find(request.lease_id());
  if (lease != nullptr && !IsOf(*lease, name)) {
    return absl::InvalidArgumentError(
        absl::StrCat("lease_id: ", request.lease_id(), " is not a lease of ", request.task()));
  }
  const int kind = KindOfResult(request);
  if (kind == v1::TASK_KIND_UNSPECIFIED || (lease != nullptr && lease->kind() != kind)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "result: does not fit ", request.task(),
        lease == nullptr ? "" : absl::StrCat(", which is ", v1::TaskKind_Name(lease->kind()))));
  }
  const bool held = lease != nullptr;
  if (kind == v1::TASK_KIND_SIMULATE) {
    D2G_RETURN_IF_ERROR(CompleteSimulate(*job, request, now));
  } else if (!HasEnded(*job)) {
    D2G_RETURN_IF_ERROR(CompleteFinal(*job, kind, request, now));
  }
  tasks_.NoteDone(name.job, kind, request.worker().node());
  if (held) ++totals_.completed[kind];
  return v1::CompleteTaskResponse();
}

absl::Status ClusterState::CompleteSimulate(const JobRow& job,
                                            const v1::CompleteTaskRequest& request, Moment now) {
  const std::string& id = job.dataset();
  const DatasetState* dataset = datasets_.Find(id);
  if (dataset == nullptr) {
    return absl::NotFoundError(
        absl::StrCat(DatasetName(id), " of ", request.task(), " was deleted"));
  }
  const auto& range = request.simulate().sealed().range();
  D2G_ASSIGN_OR_RETURN(const int64_t added,
                       datasets_.MergeSeal(id, range, request.simulate().sealed().digest()));
  totals_.triples_sealed += added;
  shards_.NoteDurable(dataset->ShardOf(range.begin()));
  Release(request.lease_id());
  AdvanceUsersOf(id, range.begin(), range.end(), now);
  return absl::OkStatus();
}

absl::Status ClusterState::CompleteFinal(const JobRow& job, int kind,
                                         const v1::CompleteTaskRequest& request, Moment now) {
  const int64_t step = kind == v1::TASK_KIND_EVALUATE ? request.evaluate().checkpoint_step()
                                                      : request.export_().checkpoint_step();
  if (step != job.spec().train().steps() || !checkpoints_.TrainDone(job)) {
    return absl::InvalidArgumentError(absl::StrCat("result.checkpoint_step: ", step,
                                                   " is not the job's last step ",
                                                   job.spec().train().steps()));
  }
  // The first result counts; whoever else works on it is told to stop.
  if (kind == v1::TASK_KIND_EVALUATE && !job.has_evaluation()) {
    jobs_.SetEvaluation(job.id(), request.evaluate(), now);
  } else if (kind == v1::TASK_KIND_EXPORT && !job.has_export_()) {
    const auto* reported = tasks_.leases().FindProgress(request.lease_id());
    const bool told = request.total() > 0 || reported == nullptr;
    jobs_.SetExport(job.id(), request.export_(), told ? request.total() : reported->total, now);
  }
  tasks_.Finish(job.id(), kind);
  Advance(job, now);
  return absl::OkStatus();
}

absl::StatusOr<FailTaskResponse> ClusterState::FailTask(const FailTaskRequest& request,
                                                        Moment now) {
  D2G_ASSIGN_OR_RETURN(const ParsedTaskName name, ParseTaskName(request.task()));
  const LeaseRow* found = tasks_.leases().Find(request.lease_id());
  // Lapsed or revoked meanwhile: there is nothing to give back.
  if (found == nullptr || !IsOf(*found, name)) return FailTaskResponse();
  const LeaseRow lease = *found;
  Release(request.lease_id());
  const FailTaskRequest::Reason reason = FailTaskRequest::Reason_IsValid(request.reason())
                                             ? request.reason()
                                             : FailTaskRequest::REASON_UNSPECIFIED;
  ++totals_.failed[reason];
  if (reason == FailTaskRequest::REASON_PREEMPTED) return FailTaskResponse();
  const std::string message = common::ValidUtf8(request.message(), common::kMaxFailureBytes);
  const std::string what = DescribeTask(lease.kind(), lease.range());
  const std::string error = absl::StrCat("node ", lease.worker().node(), ": ", message);
  const JobRow& job = *jobs_.Find(name.job);
  notes_.Warn("task failed", name.job, absl::StrCat(what, " on ", error));
  if (reason == FailTaskRequest::REASON_BAD_INPUT) {
    EndJob(job, v1::Job::STATE_FAILED, absl::StrCat(what, " on ", error), now);
  } else if (reason == FailTaskRequest::REASON_STORE_UNAVAILABLE) {
    tasks_.NoteStoreFailure(lease, error, now.steady);
    if (lease.kind() == v1::TASK_KIND_SIMULATE) {
      // Its other ranges would fare alike.
      shards_.NoteRefusal(datasets_.At(lease.dataset()).ShardOf(lease.range().begin()), now.steady);
    }
    ForgetIfSealed(lease);
  } else {
    const auto [row, span] = tasks_.NoteFailure(lease, message, error, now.steady);
    if (row->reasons_size() >= kMaxTaskFailures && span >= kTaskFailureSpan) {
      EndJob(job, v1::Job::STATE_FAILED,
             absl::StrCat(what, " failed ", row->reasons_size(), " times in ",
                          absl::FormatDuration(absl::Trunc(span, absl::Seconds(1))), ": ",
                          ReasonsByNode(*row)),
             now);
    }
    ForgetIfSealed(lease);
  }
  return FailTaskResponse();
}

}  // namespace d2g::coordinator

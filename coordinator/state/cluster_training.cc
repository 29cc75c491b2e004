// Training: what agents are told, what comes of gangs, and checkpoints.
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/rows/limits.h"
#include "coordinator/state/cluster_state.h"
#include "coordinator/state/timestamps.h"
#include "coordinator/state/work_messages.h"
#include "services/common/path_policy.h"
#include "services/common/status_macros.h"

namespace d2g::coordinator {

using rows::v1::CheckpointRow;
using rows::v1::GangRow;
using rows::v1::JobRow;
using v1::Checkpoint;
using v1::GangHeartbeatRequest;
using v1::GangHeartbeatResponse;
using v1::Job;

void ClusterState::HandleGangEvents(const GangEvents& events, Moment now) {
  for (const GangEvent& event : events) {
    const JobRow* job = jobs_.Find(event.job);
    if (job == nullptr) continue;
    HandleGangEvent(event, *job, now);
    Advance(*job, now);
  }
}

void ClusterState::HandleGangEvent(const GangEvent& event, const JobRow& job, Moment now) {
  const GangRow& gang = *gangs_.Find(event.job);
  const std::string generation = absl::StrCat("generation ", event.generation);
  switch (event.kind) {
    case GangEvent::Kind::kFormed:
      ++totals_.generations_formed;
      notes_.Info("generation formed", event.job,
                  absl::StrCat(generation, " of ", gang.members_size(), " agents, from step ",
                               gang.resume_step()));
      jobs_.StartStage(event.job, v1::STAGE_TRAIN, now);
      jobs_.NoteReplaced(event.job, now);
      break;
    case GangEvent::Kind::kBroken:
      ++totals_.generations_broken;
      notes_.Warn("generation broke", event.job, absl::StrCat(generation, ": ", event.error));
      if (event.hopeless) {
        EndJob(job, Job::STATE_FAILED, event.error, now);
      } else if (gang.failures() >= kMaxBrokenGenerations) {
        EndJob(job, Job::STATE_FAILED,
               absl::StrCat(gang.failures(),
                            " generations broke without a new checkpoint; the last one, ",
                            generation, ": ", event.error),
               now);
      }
      break;
    case GangEvent::Kind::kExplained:
      notes_.Warn("why the generation broke", event.job,
                  absl::StrCat(generation, ": ", event.error));
      if (event.hopeless) EndJob(job, Job::STATE_FAILED, event.error, now);
      break;
    case GangEvent::Kind::kLeft:
      notes_.Info("generation left", event.job, generation);
      break;
  }
}

absl::StatusOr<v1::JoinGangResponse> ClusterState::JoinGang(const v1::JoinGangRequest& request,
                                                            Moment now) {
  D2G_RETURN_IF_ERROR(gangs_.Join(request, now.steady));
  v1::JoinGangResponse response;
  *response.mutable_heartbeat_interval() = ToProtoDuration(kGangHeartbeat);
  return response;
}

absl::StatusOr<GangHeartbeatResponse> ClusterState::GangHeartbeat(
    const GangHeartbeatRequest& request, Moment now) {
  D2G_ASSIGN_OR_RETURN(const GangEvents events, gangs_.Report(request, now.steady));
  HandleGangEvents(events, now);
  const GangTable::Answer answer = gangs_.AnswerFor(request.agent());
  GangHeartbeatResponse response;
  response.set_action(answer.action);
  if (answer.action != GangHeartbeatResponse::ACTION_RUN) return response;
  const Checkpoint* resume = nullptr;
  if (answer.resume_step > 0) {
    const CheckpointRow* row = checkpoints_.Find(answer.job, answer.resume_step);
    // It may be retired by now: then every rank has loaded it long ago. Ranks that have not started
    // would begin from nothing.
    if (row == nullptr && request.state() != GangHeartbeatRequest::AGENT_STATE_RUNNING) {
      notes_.Warn("a generation's checkpoint is gone; another one will form", answer.job,
                  absl::StrCat("generation ", answer.generation, ", step ", answer.resume_step));
      gangs_.Kill(answer.job, now.steady);
      response.set_action(GangHeartbeatResponse::ACTION_IDLE);
      return response;
    }
    if (row != nullptr) resume = &row->checkpoint();
  }
  *response.mutable_assignment() = AssignmentMessage(answer, resume, parts());
  return response;
}

absl::StatusOr<v1::CommitCheckpointResponse> ClusterState::CommitCheckpoint(
    const v1::CommitCheckpointRequest& request, Moment now) {
  D2G_ASSIGN_OR_RETURN(const JobRow* job, jobs_.FindByName(request.job()));
  const std::string& id = job->id();
  const std::string path = common::NormalPath(request.path());
  D2G_RETURN_IF_ERROR(CheckCommit(request, *job, path));
  v1::CommitCheckpointResponse response;
  const Checkpoint* last = checkpoints_.Last(id);
  if (last != nullptr && last->step() == request.step() &&
      last->manifest_digest() == request.manifest_digest() && last->path() == path) {
    *response.mutable_checkpoint() = *last;
    // The first answer may have got lost, and what it named with it.
    for (std::string& retired : checkpoints_.RetiredPaths(id)) {
      response.add_delete_paths(std::move(retired));
    }
    return response;
  }
  const GangRow* gang = gangs_.Find(id);
  const int64_t generation = gang == nullptr ? 0 : gang->generation();
  if (request.generation() != generation || generation == 0) {
    return absl::FailedPreconditionError(absl::StrCat("generation ", request.generation(), " of ",
                                                      request.job(), " is not the current one, ",
                                                      generation, ": its checkpoint is not taken"));
  }
  if (last != nullptr && request.step() <= last->step()) {
    return absl::FailedPreconditionError(
        absl::StrCat("step ", request.step(), " of ", request.job(),
                     " is not after the last committed step, ", last->step()));
  }
  if (HasEnded(*job)) {
    return absl::FailedPreconditionError(absl::StrCat(request.job(), " has ended"));
  }
  *response.mutable_checkpoint() = checkpoints_.Add(id, request, path, now);
  for (std::string& retired : checkpoints_.Retire(id, job->spec().train().keep_checkpoints(),
                                                  tasks_.leases().CheckpointsOf(id))) {
    response.add_delete_paths(std::move(retired));
  }
  ++totals_.checkpoints_committed;
  notes_.Info("checkpoint committed", id,
              absl::StrCat("step ", request.step(), " of generation ", request.generation()));
  gangs_.NoteCheckpoint(id);
  jobs_.Touch(id, now);
  if (checkpoints_.TrainDone(*job)) gangs_.Finish(id, now.steady);
  Advance(*job, now);
  return response;
}

}  // namespace d2g::coordinator

// Training: demands for gangs, what agents are told, and checkpoints.
#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "coordinator/rows/limits.h"
#include "coordinator/state/cluster_state.h"
#include "coordinator/state/timestamps.h"
#include "services/common/output_folder.h"
#include "services/common/path_policy.h"
#include "services/common/status_macros.h"
#include "services/common/utf8.h"
#include "services/spec/field_rules.h"

namespace d2g::coordinator {

using namespace d2g::coordinator::v1;  // NOLINT: the resources that this file is about
using d2g::common::LogLevel;
using d2g::common::ValidUtf8;
using rows::v1::CheckpointRow;
using rows::v1::GangRow;
using rows::v1::JobRow;

const Checkpoint* ClusterState::LastCheckpoint(absl::string_view job) const {
  // Ids sort by step: the last one of the job's. The newest is never retired, but its row may have
  // been set aside.
  const std::string prefix = ChildPrefix(job);
  auto it = tables_.checkpoints.rows().lower_bound(absl::StrCat(job, "0"));  // '0' follows '/'
  while (it != tables_.checkpoints.rows().begin()) {
    --it;
    if (it->first.compare(0, prefix.size(), prefix) != 0) return nullptr;
    if (!it->second.retired()) return &it->second.checkpoint();
  }
  return nullptr;
}

bool ClusterState::TrainDone(const JobRow& job) const {
  const Checkpoint* last = LastCheckpoint(job.id());
  return last != nullptr && last->step() == job.spec().train().steps();
}

dataset::IntervalSet ClusterState::SnapshotIndices(absl::string_view job) const {
  dataset::IntervalSet indices;
  const std::string prefix = ChildPrefix(job);
  for (auto it = tables_.snapshots.rows().lower_bound(prefix);
       it != tables_.snapshots.rows().end() && it->first.compare(0, prefix.size(), prefix) == 0;
       ++it) {
    for (const auto& range : it->second.ranges()) indices.Add(range.begin(), range.end());
  }
  return indices;
}

std::vector<int32_t> ClusterState::AwaitedShards(const JobRow& job, Moment now) const {
  const DatasetState& dataset = datasets_.at(job.dataset());
  std::vector<int32_t> awaited = shards_.Missing(now.steady);
  std::erase_if(awaited, [&](int32_t shard) {
    return shard >= dataset.recipe().shard_count() ||
           !dataset.ShardHolds(shard, job.spec().simulate().triples());
  });
  return awaited;
}

bool ClusterState::WantsGeneration(const JobRow& job, Moment now) const {
  if (!AtWork(job) || TrainDone(job) || gangs_.Active(job.id())) return false;
  const DatasetState& dataset = datasets_.at(job.dataset());
  // Ranks would wait for what a shard that is down holds, and break when that takes too long.
  if (!AwaitedShards(job, now).empty()) return false;
  // Likewise for what a shard has lost of an epoch that was begun.
  const dataset::IntervalSet read = SnapshotIndices(job.id());
  if (!read.empty()) return dataset.Unsealed(read).empty();
  return dataset.SealedTraining(job.spec().simulate().triples()) >= TrainingThreshold(job.spec());
}

std::vector<TrainDemand> ClusterState::Demands(Moment now) const {
  std::vector<TrainDemand> demands;
  for (const auto& [sequence, id] : live_jobs_) {
    const JobRow& job = *tables_.jobs.Find(id);
    if (!WantsGeneration(job, now)) continue;
    const d2g::common::v1::TrainSpec& train = job.spec().train();
    TrainDemand& demand = demands.emplace_back();
    demand.job = id;
    demand.min_ranks = train.min_ranks();
    // Every rank has at least one triple of a batch.
    demand.max_ranks = train.max_ranks() == 0 ? train.global_batch()
                                              : std::min(train.max_ranks(), train.global_batch());
    const Checkpoint* last = LastCheckpoint(id);
    demand.resume_step = last == nullptr ? 0 : last->step();
  }
  return demands;
}

void ClusterState::HandleGangEvents(const GangEvents& events, Moment now) {
  for (const GangEvent& event : events) {
    switch (event.kind) {
      case GangEvent::Kind::kFormed:
        ++totals_.generations_formed;
        Tell(LogLevel::kInfo, "generation formed", event.job,
             absl::StrCat("generation ", event.generation, " of ",
                          gangs_.Find(event.job)->members_size(), " agents, from step ",
                          gangs_.Find(event.job)->resume_step()));
        StartStage(event.job, STAGE_TRAIN, now);
        NoteReplaced(event.job, now);
        break;
      case GangEvent::Kind::kBroken: {
        ++totals_.generations_broken;
        Tell(LogLevel::kWarn, "generation broke", event.job,
             absl::StrCat("generation ", event.generation, ": ", event.error));
        const int failures = gangs_.Find(event.job)->failures();
        if (event.hopeless) {
          EndJob(event.job, Job::STATE_FAILED, event.error, now);
        } else if (failures >= kMaxBrokenGenerations) {
          EndJob(event.job, Job::STATE_FAILED,
                 absl::StrCat(failures,
                              " generations broke without a new checkpoint; the last one, "
                              "generation ",
                              event.generation, ": ", event.error),
                 now);
        }
        break;
      }
      case GangEvent::Kind::kExplained:
        Tell(LogLevel::kWarn, "why the generation broke", event.job,
             absl::StrCat("generation ", event.generation, ": ", event.error));
        if (event.hopeless && live_jobs_.contains(tables_.jobs.Find(event.job)->sequence())) {
          EndJob(event.job, Job::STATE_FAILED, event.error, now);
        }
        break;
      case GangEvent::Kind::kLeft:
        Tell(LogLevel::kInfo, "generation left", event.job,
             absl::StrCat("generation ", event.generation));
        break;
    }
    if (tables_.jobs.Find(event.job) != nullptr) Advance(event.job, now);
  }
}

absl::StatusOr<JoinGangResponse> ClusterState::JoinGang(const JoinGangRequest& request,
                                                        Moment now) {
  D2G_RETURN_IF_ERROR(gangs_.Join(request, now.steady));
  JoinGangResponse response;
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
  const CheckpointRow* resume = tables_.checkpoints.Find(ChildId(answer.job, answer.resume_step));
  // It may be retired by now: then every rank has loaded it long ago. Ranks that have not started
  // would begin from nothing.
  if (answer.resume_step > 0 && resume == nullptr &&
      request.state() != GangHeartbeatRequest::AGENT_STATE_RUNNING) {
    Tell(LogLevel::kWarn, "a generation's checkpoint is gone; another one will form", answer.job,
         absl::StrCat("generation ", answer.generation, ", step ", answer.resume_step));
    gangs_.Kill(answer.job, now.steady);
    response.set_action(GangHeartbeatResponse::ACTION_IDLE);
    return response;
  }
  const JobRow& job = *tables_.jobs.Find(answer.job);
  GangAssignment& assignment = *response.mutable_assignment();
  assignment.set_job(JobName(answer.job));
  assignment.set_generation(answer.generation);
  assignment.set_world_size(answer.world_size);
  assignment.set_first_rank(answer.first_rank);
  assignment.set_rank_count(answer.rank_count);
  assignment.set_rendezvous(answer.rendezvous);
  TrainWork& work = *assignment.mutable_work();
  *work.mutable_spec() = job.spec();
  work.set_dataset(DatasetName(job.dataset()));
  *work.mutable_recipe() = datasets_.at(job.dataset()).recipe();
  for (const auto& shard : shards_.KnownShards()) *work.add_shards() = shard;
  if (answer.resume_step > 0 && resume != nullptr) *work.mutable_resume() = resume->checkpoint();
  return response;
}

std::vector<std::string> ClusterState::RetireCheckpoints(const JobRow& job) {
  std::vector<std::string> pinned;
  for (const int64_t id : leases_.OfJob(job.id())) {
    const auto& path = leases_.Find(id)->checkpoint_path();
    if (!path.empty()) pinned.push_back(path);
  }
  const std::string prefix = ChildPrefix(job.id());
  std::vector<std::string> newest_first;
  for (auto it = tables_.checkpoints.rows().lower_bound(prefix);
       it != tables_.checkpoints.rows().end() && it->first.compare(0, prefix.size(), prefix) == 0;
       ++it) {
    newest_first.push_back(it->first);
  }
  std::reverse(newest_first.begin(), newest_first.end());
  // A retired one is named in two answers, in case the first got lost, and then forgotten.
  std::vector<std::string> delete_paths;
  for (size_t i = 0; i < newest_first.size(); ++i) {
    const CheckpointRow& row = *tables_.checkpoints.Find(newest_first[i]);
    const std::string& path = row.checkpoint().path();
    if (row.retired()) {
      delete_paths.push_back(path);
      tables_.checkpoints.Erase(newest_first[i]);
    } else if (i >= static_cast<size_t>(job.spec().train().keep_checkpoints()) &&
               std::find(pinned.begin(), pinned.end(), path) == pinned.end()) {
      delete_paths.push_back(path);
      tables_.checkpoints.Mutable(newest_first[i]).set_retired(true);
    }
  }
  return delete_paths;
}

absl::StatusOr<CommitCheckpointResponse> ClusterState::CommitCheckpoint(
    const CommitCheckpointRequest& request, Moment now) {
  D2G_ASSIGN_OR_RETURN(const JobRow* job, FindJob(request.job()));
  const std::string id = job->id();
  const std::string folder =
      d2g::common::CheckpointsFolder(d2g::common::NormalPath(job->spec().output_dir())) + "/";
  const bool hex = request.manifest_digest().size() == 32 &&
                   std::all_of(request.manifest_digest().begin(), request.manifest_digest().end(),
                               [](char c) { return absl::ascii_isxdigit(c); });
  if (!hex) {
    return absl::InvalidArgumentError(
        absl::StrCat("manifest_digest: \"", ValidUtf8(request.manifest_digest(), kMaxIdBytes),
                     "\" is not 32 hex digits"));
  }
  const std::string path = d2g::common::NormalPath(request.path());
  if (!absl::StartsWith(path, folder) || absl::StrContains(request.path(), "/../") ||
      request.path().size() > spec::kMaxPathBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "path: \"", ValidUtf8(request.path(), 2 * kMaxIdBytes), "\" is not below ", folder));
  }
  if (request.step() < 1 || request.step() > job->spec().train().steps()) {
    return absl::InvalidArgumentError(
        absl::StrCat("step: ", request.step(), " is not from 1 to ", job->spec().train().steps()));
  }
  CommitCheckpointResponse response;
  const Checkpoint* last = LastCheckpoint(id);
  if (last != nullptr && last->step() == request.step() &&
      last->manifest_digest() == request.manifest_digest() && last->path() == path) {
    *response.mutable_checkpoint() = *last;
    // The first answer may have got lost, and what it named with it.
    const std::string prefix = ChildPrefix(id);
    for (auto it = tables_.checkpoints.rows().lower_bound(prefix);
         it != tables_.checkpoints.rows().end() && it->first.compare(0, prefix.size(), prefix) == 0;
         ++it) {
      if (it->second.retired()) response.add_delete_paths(it->second.checkpoint().path());
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
  CheckpointRow& row = tables_.checkpoints.Mutable(ChildId(id, request.step()));
  row.Clear();  // a retired one of this step, when the checkpoints after it were lost
  Checkpoint& checkpoint = *row.mutable_checkpoint();
  checkpoint.set_name(CheckpointName(id, request.step()));
  checkpoint.set_step(request.step());
  checkpoint.set_generation(request.generation());
  checkpoint.set_path(path);
  checkpoint.set_manifest_digest(request.manifest_digest());
  *checkpoint.mutable_commit_time() = ToTimestamp(now.wall);
  *response.mutable_checkpoint() = checkpoint;
  for (std::string& path : RetireCheckpoints(*job)) response.add_delete_paths(std::move(path));
  ++totals_.checkpoints_committed;
  Tell(LogLevel::kInfo, "checkpoint committed", id,
       absl::StrCat("step ", request.step(), " of generation ", request.generation()));
  gangs_.NoteCheckpoint(id);
  Touch(id, now);
  if (TrainDone(*job)) gangs_.Finish(id, now.steady);
  Advance(id, now);
  return response;
}

}  // namespace d2g::coordinator

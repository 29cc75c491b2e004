#include "coordinator/state/work_messages.h"

#include <algorithm>

#include "coordinator/rows/limits.h"
#include "coordinator/state/timestamps.h"
#include "services/common/output_folder.h"

namespace d2g::coordinator {

using rows::v1::JobRow;
using rows::v1::LeaseRow;

namespace {

void FillSimulate(const LeaseRow& lease, const JobRow& job, const ClusterParts& parts,
                  v1::SimulateWork* work) {
  const DatasetState& dataset = parts.datasets.At(lease.dataset());
  work->set_dataset(DatasetName(lease.dataset()));
  *work->mutable_recipe() = dataset.recipe();
  *work->mutable_range() = lease.range();
  work->set_range_epoch(lease.range_epoch());
  if (const auto* shard = parts.shards.Find(dataset.ShardOf(lease.range().begin()))) {
    *work->mutable_shard() = *shard;
  }
  work->set_teacher_path(job.spec().teacher().path());
  work->set_batch_size(job.spec().simulate().batch_size());
}

// What an evaluation and an export have in common.
template <typename Work>
void FillFinal(const LeaseRow& lease, const JobRow& job, const DatasetState& dataset, Work* work) {
  work->set_job(JobName(lease.job()));
  *work->mutable_spec() = job.spec();
  work->set_dataset(DatasetName(lease.dataset()));
  *work->mutable_recipe() = dataset.recipe();
  work->set_checkpoint_path(lease.checkpoint_path());
  work->set_checkpoint_step(lease.checkpoint_step());
}

}  // namespace

v1::Task TaskMessage(const LeaseRow& lease, const ClusterParts& parts) {
  const JobRow& job = *parts.jobs.Find(lease.job());
  const DatasetState& dataset = parts.datasets.At(lease.dataset());
  const absl::Duration duration = parts.tasks.leases().duration();
  v1::Task task;
  task.set_name(TaskName(lease.job(), lease.task()));
  task.set_lease_id(lease.lease_id());
  *task.mutable_lease_duration() = ToProtoDuration(duration);
  *task.mutable_heartbeat_interval() = ToProtoDuration(std::min(kMaxTaskHeartbeat, duration / 12));
  if (lease.kind() == v1::TASK_KIND_SIMULATE) {
    FillSimulate(lease, job, parts, task.mutable_simulate());
  } else if (lease.kind() == v1::TASK_KIND_EVALUATE) {
    v1::EvaluateWork& work = *task.mutable_evaluate();
    FillFinal(lease, job, dataset, &work);
    for (const auto& shard : parts.shards.KnownShards()) *work.add_shards() = shard;
    dataset::AppendRanges(dataset.sealed(), 0, job.spec().simulate().triples(),
                          work.mutable_sealed());
  } else {
    v1::ExportWork& work = *task.mutable_export_();
    FillFinal(lease, job, dataset, &work);
    work.set_export_path(common::ExportFolder(job.spec().output_dir()));
  }
  return task;
}

v1::GangAssignment AssignmentMessage(const GangTable::Answer& answer, const v1::Checkpoint* resume,
                                     const ClusterParts& parts) {
  const JobRow& job = *parts.jobs.Find(answer.job);
  v1::GangAssignment assignment;
  assignment.set_job(JobName(answer.job));
  assignment.set_generation(answer.generation);
  assignment.set_world_size(answer.world_size);
  assignment.set_first_rank(answer.first_rank);
  assignment.set_rank_count(answer.rank_count);
  assignment.set_rendezvous(answer.rendezvous);
  v1::TrainWork& work = *assignment.mutable_work();
  *work.mutable_spec() = job.spec();
  work.set_dataset(DatasetName(job.dataset()));
  *work.mutable_recipe() = parts.datasets.At(job.dataset()).recipe();
  for (const auto& shard : parts.shards.KnownShards()) *work.add_shards() = shard;
  if (resume != nullptr) *work.mutable_resume() = *resume;
  return assignment;
}

}  // namespace d2g::coordinator

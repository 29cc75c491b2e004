#include "coordinator/state/job_stages.h"

#include <algorithm>

namespace d2g::coordinator {

using rows::v1::JobRow;
using v1::Checkpoint;
using v1::StageProgress;

namespace {

// What the holder of the task reports; null when nobody does.
const LeaseTable::Progress* Reported(const JobRow& job, int kind, const ClusterParts& parts) {
  const LeaseTable& leases = parts.tasks.leases();
  const auto* lease = HasEnded(job) ? nullptr : leases.First(job.id(), kind);
  return lease == nullptr ? nullptr : leases.FindProgress(lease->lease_id());
}

void CountSimulated(const JobRow& job, const ClusterParts& parts, StageProgress* stage) {
  const int64_t triples = job.spec().simulate().triples();
  stage->set_total(triples);
  stage->set_reused(job.reused());
  const DatasetState* dataset = parts.datasets.Find(job.dataset());
  if (HasEnded(job) || dataset == nullptr) {
    stage->set_done(job.simulated());
    return;
  }
  int64_t done = dataset->SealedCount(triples);
  // With what is durable and not sealed yet.
  if (done < triples) done += parts.tasks.leases().DoneBelow(job.dataset(), triples);
  stage->set_done(std::min(triples, done));
}

void CountTrained(const JobRow& job, const ClusterParts& parts, StageProgress* stage) {
  stage->set_total(job.spec().train().steps());
  const Checkpoint* last = parts.checkpoints.Last(job.id());
  stage->set_done(last == nullptr ? 0 : last->step());
  for (const auto& [rank, status] : parts.gangs.RanksOf(job.id())) {
    if (status.step() <= stage->total()) stage->set_done(std::max(stage->done(), status.step()));
  }
}

void CountExported(const JobRow& job, const ClusterParts& parts, StageProgress* stage) {
  if (job.has_export_()) {
    stage->set_total(std::max<int64_t>(1, job.exported_files()));
    stage->set_done(stage->total());
  } else if (const auto* reported = Reported(job, v1::TASK_KIND_EXPORT, parts)) {
    stage->set_total(reported->total);  // unknown before
    stage->set_done(std::clamp<int64_t>(reported->done, 0, reported->total));
  }
}

void CountEvaluated(const JobRow& job, const ClusterParts& parts, StageProgress* stage) {
  // As the user counts, though a worker makes each picture with several models.
  stage->set_total(job.spec().evaluate().pictures());
  if (job.has_evaluation()) {
    stage->set_done(stage->total());
    return;
  }
  const auto* reported = Reported(job, v1::TASK_KIND_EVALUATE, parts);
  if (reported == nullptr || reported->total <= 0) return;
  const double share = static_cast<double>(reported->done) / static_cast<double>(reported->total);
  const auto done = static_cast<int64_t>(share * static_cast<double>(stage->total()));
  stage->set_done(std::clamp<int64_t>(done, 0, stage->total()));
}

struct StageFacts {
  v1::Stage stage;
  const char* unit;
  void (*count)(const JobRow& job, const ClusterParts& parts, StageProgress* stage);
};

constexpr StageFacts kStages[] = {
    {v1::STAGE_SIMULATE, "triples", CountSimulated},
    {v1::STAGE_TRAIN, "steps", CountTrained},
    {v1::STAGE_EXPORT, "files", CountExported},
    {v1::STAGE_EVALUATE, "pictures", CountEvaluated},
};

}  // namespace

std::vector<StageProgress> StagesOf(const JobRow& job, const ClusterParts& parts) {
  std::vector<StageProgress> stages;
  for (const StageFacts& facts : kStages) {
    if (facts.stage == v1::STAGE_EVALUATE && job.spec().evaluate().pictures() == 0) continue;
    StageProgress& stage = stages.emplace_back();
    stage.set_stage(facts.stage);
    stage.set_unit(facts.unit);
    if (const auto times = job.stages().find(facts.stage); times != job.stages().end()) {
      if (times->second.has_start_time()) *stage.mutable_start_time() = times->second.start_time();
      if (times->second.has_end_time()) *stage.mutable_end_time() = times->second.end_time();
    }
    facts.count(job, parts, &stage);
  }
  return stages;
}

}  // namespace d2g::coordinator

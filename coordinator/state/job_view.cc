#include "coordinator/state/job_view.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "coordinator/rows/limits.h"
#include "coordinator/state/job_health.h"
#include "coordinator/state/job_stages.h"
#include "coordinator/state/timestamps.h"

namespace d2g::coordinator {

using rows::v1::JobRow;
using v1::Job;
using v1::StageProgress;

namespace {

// Beyond this an estimate says nothing.
constexpr double kMaxEtaSeconds = 1e9;

void AddRate(const RateMeter& meter, StageProgress* stage) {
  if (stage->has_end_time()) return;
  stage->set_rate(std::max(0.0, meter.Rate()));
  const double seconds =
      static_cast<double>(stage->total() - stage->done()) / std::max(stage->rate(), 1e-12);
  if (stage->rate() > 0 && seconds < kMaxEtaSeconds) {
    *stage->mutable_eta() = ToProtoDuration(absl::Seconds(std::max(0.0, std::round(seconds))));
  }
}

// The lowest rank that reports figures speaks for all.
void AddMetrics(const GangTable::Ranks& ranks, Job* view) {
  for (const auto& [rank, status] : ranks) {
    if (status.metrics().empty()) continue;
    int taken = 0;
    for (const auto& [name, value] : status.metrics()) {
      if (++taken > kMaxReportedMetrics) break;
      (*view->mutable_training_metrics())[name] = value;
    }
    return;
  }
}

}  // namespace

Job ProposedView(const JobRow& job) {
  Job view;
  view.set_name(JobName(job.id()));
  *view.mutable_spec() = job.spec();
  view.set_dataset(DatasetName(job.dataset()));
  view.set_desired_state(job.desired_state());
  view.set_state(job.state());
  *view.mutable_create_time() = job.create_time();
  *view.mutable_update_time() = job.update_time();
  return view;
}

Job ViewOf(const JobRow& job, const ClusterParts& parts, Moment now) {
  Job view = ProposedView(job);
  view.set_error(job.error());
  const ByStage<RateMeter>* rates = AtWork(job) ? parts.rates.Find(job.id()) : nullptr;
  for (StageProgress& stage : StagesOf(job, parts)) {
    if (rates != nullptr) AddRate(rates->at(stage.stage()), &stage);
    *view.add_stages() = std::move(stage);
  }
  if (const auto* last = parts.checkpoints.Last(job.id())) view.set_checkpoint_step(last->step());
  if (const auto* gang = parts.gangs.Find(job.id())) view.set_generation(gang->generation());
  AddMetrics(parts.gangs.RanksOf(job.id()), &view);
  if (job.has_evaluation()) *view.mutable_evaluation() = job.evaluation();
  if (job.has_export_()) *view.mutable_export_() = job.export_();
  view.set_output_replaced_by(job.output_replaced_by());
  if (AtWork(job)) {
    for (std::string& line : HealthOf(job, parts, now)) view.add_health(std::move(line));
  }
  return view;
}

}  // namespace d2g::coordinator

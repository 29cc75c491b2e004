#include "coordinator/state/job_rates.h"

namespace d2g::coordinator {

void JobRates::Sample(absl::string_view job, int64_t generation,
                      const std::vector<v1::StageProgress>& stages, absl::Duration now) {
  Rates& rates = rates_[std::string(job)];
  if (generation != rates.generation) rates.by_stage[v1::STAGE_TRAIN].Reset();
  rates.generation = generation;
  for (const v1::StageProgress& stage : stages) {
    rates.by_stage.at(stage.stage()).Sample(now, stage.done());
  }
}

void JobRates::Erase(absl::string_view job) {
  if (const auto it = rates_.find(job); it != rates_.end()) rates_.erase(it);
}

const ByStage<RateMeter>* JobRates::Find(absl::string_view job) const {
  const auto it = rates_.find(job);
  return it == rates_.end() ? nullptr : &it->second.by_stage;
}

}  // namespace d2g::coordinator

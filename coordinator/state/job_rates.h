// How fast live jobs go on.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "coordinator/state/rate_meter.h"
#include "coordinator/state/task_kinds.h"
#include "d2g/coordinator/v1/job.pb.h"

namespace d2g::coordinator {

// A meter for each stage of each job that was sampled; nothing persists. Thread-compatible; holds
// no time of its own.
class JobRates {
 public:
  // Takes what the stages of a job at work have done. `generation` is the one that trains, 0 when
  // none does: a new one starts up first, and its steps are measured anew.
  void Sample(absl::string_view job, int64_t generation,
              const std::vector<v1::StageProgress>& stages, absl::Duration now);
  // The job was interrupted or has ended.
  void Erase(absl::string_view job);
  // Null when the job was not sampled.
  const ByStage<RateMeter>* Find(absl::string_view job) const;

 private:
  struct Rates {
    ByStage<RateMeter> by_stage;
    int64_t generation = 0;
  };

  std::map<std::string, Rates, std::less<>> rates_;
};

}  // namespace d2g::coordinator

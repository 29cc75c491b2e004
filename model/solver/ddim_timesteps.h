// The timesteps that a DDIM run visits.
// Source: diffusers 0.35.2, DDIMScheduler.set_timesteps.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/solver/scheduler_config.h"

namespace d2g::model {

// In the order they are visited. `spacing` overrides the file's. Throws Error unless
// 1 <= steps <= num_train_timesteps and every timestep is below num_train_timesteps. Always `steps`
// of them: for a few counts (61 of 1000 trailing) rounding makes the reference add timestep -1,
// where it takes the last alpha for the first and spoils the sample.
std::vector<int64_t> DdimTimesteps(const SchedulerConfig& config, int64_t steps,
                                   const std::optional<std::string>& spacing = std::nullopt);

}  // namespace d2g::model

// Whether a solver can run with the settings that it is given, found out without running it.
#pragma once

#include <cstdint>

#include "model/solver/scheduler_config.h"

namespace d2g::model {

// Throws Error, naming values and limits, for steps that the schedule cannot be divided into, for
// noise levels that leave no signal or no noise, and for ddim over a schedule with zero terminal
// SNR from whose last timestep epsilon gives no x.
void CheckRun(const SchedulerConfig& config, int64_t steps);

}  // namespace d2g::model

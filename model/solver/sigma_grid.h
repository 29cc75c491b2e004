// The timesteps and noise levels that a run visits, in the arithmetic of the reference: numpy's
// doubles, halves rounded to even, tables in fp32.
// Source: diffusers 0.35.2, set_timesteps of the schedulers; Karras et al. 2022 (arXiv 2206.00364),
// equation 5; Lu et al. 2022 (arXiv 2206.00927), section 4.3.
#pragma once

#include <cstdint>
#include <vector>

#include "model/solver/noise_schedule.h"
#include "model/solver/scheduler_config.h"

namespace d2g::model {

// numpy.linspace: `count` points from `start` to `stop`, both included; one point is `start`.
std::vector<double> Linspace(double start, double stop, int64_t count);

// numpy.arange(start, 0, -step): as many points as ceil(start / step) says, which rounding can make
// one more than was meant.
std::vector<double> Descend(double start, double step);

// Rounds to the nearest whole number, halves to even.
double RoundHalfEven(double value);

struct SigmaGrid {
  std::vector<double> timesteps;  // what the network is told, in the order of the run
  std::vector<float> sigmas;      // of these timesteps, and the one after the last
};

// For euler and heun: step i goes from sigmas[i] to sigmas[i + 1]. Throws Error unless steps is at
// least 1, the first timestep is visited once and every sigma but the last is a positive number.
SigmaGrid MakeEulerGrid(const SchedulerConfig& config, const NoiseSchedule& schedule,
                        int64_t steps);

// For dpmpp_2m: timesteps are whole numbers. Throws like MakeEulerGrid. lambda_min_clipped may
// leave fewer timesteps than steps.
SigmaGrid MakeDpmGrid(const SchedulerConfig& config, const NoiseSchedule& schedule, int64_t steps);

}  // namespace d2g::model

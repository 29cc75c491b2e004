#include "model/solver/run_check.h"

#include "model/files/error.h"
#include "model/solver/ddim_timesteps.h"
#include "model/solver/noise_schedule.h"
#include "model/solver/sigma_grid.h"

namespace d2g::model {

namespace {

void CheckDdim(const SchedulerConfig& config, int64_t steps) {
  const std::vector<int64_t> timesteps = DdimTimesteps(config, steps);
  // Where x is clipped it stays finite: diffusers divides by zero too, and clips what comes out.
  if (config.prediction_type != Parametrization::kEpsilon || config.clip_sample) return;
  const NoiseSchedule schedule(config);
  if (schedule.alphas_cumprod().at(static_cast<size_t>(timesteps.front())) > 0) return;
  Fail("ddim starts at timestep ", timesteps.front(), " (timestep_spacing ",
       config.timestep_spacing, "), where ",
       config.rescale_betas_zero_snr ? "rescale_betas_zero_snr" : "trained_betas",
       " leaves no signal, and the network predicts epsilon, which gives no x there: the latents "
       "would be NaN. Take timestep_spacing leading, or the solver euler or dpmpp_2m");
}

}  // namespace

void CheckRun(const SchedulerConfig& config, int64_t steps) {
  switch (config.kind) {
    case SolverKind::kDdim:
      return CheckDdim(config, steps);
    case SolverKind::kEuler:
    case SolverKind::kHeun:
      MakeEulerGrid(config, NoiseSchedule(config), steps);
      return;
    case SolverKind::kDpmpp2m:
      MakeDpmGrid(config, NoiseSchedule(config), steps);
      return;
  }
}

}  // namespace d2g::model

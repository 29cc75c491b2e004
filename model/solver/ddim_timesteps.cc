#include "model/solver/ddim_timesteps.h"

#include "model/files/error.h"
#include "model/solver/sigma_grid.h"

namespace d2g::model {

std::vector<int64_t> DdimTimesteps(const SchedulerConfig& config, int64_t steps,
                                   const std::optional<std::string>& spacing) {
  const int64_t total = config.num_train_timesteps;
  if (steps < 1 || steps > total) {
    Fail("steps is ", steps, ", not between 1 and num_train_timesteps = ", total);
  }
  const std::string& rule = spacing ? *spacing : config.timestep_spacing;
  std::vector<int64_t> timesteps;
  if (rule == "linspace") {
    const std::vector<double> points = Linspace(0, static_cast<double>(total - 1), steps);
    for (size_t i = points.size(); i-- > 0;) {
      timesteps.push_back(static_cast<int64_t>(RoundHalfEven(points[i])));
    }
  } else if (rule == "leading") {
    for (int64_t i = steps - 1; i >= 0; --i) {
      timesteps.push_back(i * (total / steps) + config.steps_offset);
    }
  } else if (rule == "trailing") {
    const auto end = static_cast<double>(total);
    const std::vector<double> points = Descend(end, end / static_cast<double>(steps));
    for (size_t i = 0; i < static_cast<size_t>(steps); ++i) {
      timesteps.push_back(static_cast<int64_t>(RoundHalfEven(points.at(i))) - 1);
    }
  } else {
    Fail("timestep spacing \"", rule, "\" is not one of ", Joined(TimestepSpacings()));
  }
  for (const int64_t timestep : timesteps) {
    if (timestep < 0 || timestep >= total) {
      Fail("timestep ", timestep, " of ", steps, " steps (", rule, ", steps_offset ",
           config.steps_offset, ") is not below num_train_timesteps = ", total);
    }
  }
  return timesteps;
}

}  // namespace d2g::model

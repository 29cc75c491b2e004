// From a dataset's recipe to what the solver takes.
#pragma once

#include "d2g/common/v1/recipe.pb.h"
#include "model/text_to_image.h"

namespace d2g {

// A normal spec's settings of the run; its kind and dtype are the model's, when it is loaded.
inline model::SolverOptions SolverOptionsOf(const common::v1::SolverSpec& spec) {
  model::SolverOptions options{.steps = spec.steps(), .guidance = spec.guidance()};
  if (!spec.timestep_spacing().empty()) options.spacing = spec.timestep_spacing();
  return options;
}

}  // namespace d2g

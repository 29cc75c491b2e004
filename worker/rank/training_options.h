// From the job's spec to the options of the recipe's parts.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "d2g/common/v1/recipe.pb.h"
#include "d2g/coordinator/v1/training_service.pb.h"
#include "model/solver/ddim_scheduler.h"
#include "worker/distil/generator.h"
#include "worker/distil/regression.h"
#include "worker/distil/train_step.h"

namespace d2g::rank {

// The coordinator has filled in the spec's defaults and checked its limits; these functions check
// what needs the teacher. All throw model::Error naming the field and what it must be.

distil::TrainStepOptions StepOptions(const coordinator::v1::TrainSpec& spec);

// The one-step conversion at the spec's t0 (unset: the teacher's last timestep).
distil::OneStepGenerator MakeConversion(const coordinator::v1::TrainSpec& spec,
                                        const model::DdimScheduler& teacher);

// The regression terms with a weight, on `device`.
std::vector<std::shared_ptr<const distil::RegressionTerm>> MakeRegression(
    const coordinator::v1::RegressionSpec& spec, const common::v1::DatasetRecipe& recipe,
    at::Device device);

}  // namespace d2g::rank

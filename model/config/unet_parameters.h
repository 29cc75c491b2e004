// The parameters of a UNet2DConditionModel.
// Source: diffusers 0.35.2, models/unets/unet_2d_condition.py and unet_2d_blocks.py.
#pragma once

#include "model/config/parameter_match.h"
#include "model/config/unet_config.h"

namespace d2g::model {

ShapeMap UNetParameters(const UNetConfig& config);
ParameterRules UNetParameterRules();

}  // namespace d2g::model

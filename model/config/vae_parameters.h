// The parameters of the autoencoders of model folders.
// Source: diffusers 0.35.2, models/autoencoders/{autoencoder_kl,autoencoder_tiny,vae}.py and
// models/unets/unet_2d_blocks.py.
#pragma once

#include "model/config/parameter_match.h"
#include "model/config/vae_config.h"

namespace d2g::model {

ShapeMap VaeParameters(const AutoencoderConfig& config);
ShapeMap VaeParameters(const AutoencoderTinyConfig& config);
// The attention of old files (query, key, value, proj_attn; weights as 1x1 convolutions) is
// accepted.
ParameterRules VaeParameterRules();

}  // namespace d2g::model

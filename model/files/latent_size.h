// The size of the latents that a pipeline draws, which its U-Net's config.json says.
#pragma once

#include <cstdint>
#include <optional>

#include "model/files/json_config.h"

namespace d2g::model {

struct LatentSize {
  int64_t height = 0;
  int64_t width = 0;
  friend bool operator==(const LatentSize&, const LatentSize&) = default;
};

// A single number below this one is taken for a mistake in files of diffusers before 0.9.0.
inline constexpr int64_t kSmallestOldLatentSize = 64;

// Reads `sample_size`, one number for both sides or a list of two, of a U-Net's options; nothing
// where it is missing or null. A number below 64 beside a "_diffusers_version" below 0.9.0 becomes
// 64, as StableDiffusionPipeline's constructor has it; a later version, none, or a list leaves the
// size as it is. (Stable Diffusion XL, whose pipeline changes nothing, is younger than 0.9.0.)
// Throws Error for a side that is no integer from 1 to kMaxConfigSize, and, where the size hangs on
// it, for a version that is none.
// Source: diffusers 0.35.2 and 0.42.1, pipelines/stable_diffusion/pipeline_stable_diffusion.py.
std::optional<LatentSize> ReadLatentSize(const JsonConfig& unet);

}  // namespace d2g::model

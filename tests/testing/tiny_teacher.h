// A complete text-to-image folder with random weights, small enough to train in tests.
#pragma once

#include <cstdint>
#include <string>

namespace d2g::testing {

// Latents of 4 x 4 x 4.
inline constexpr int kTinyLatentChannels = 4;
inline constexpr int kTinyLatentSide = 4;

// Writes unet, text_encoder, tokenizer, scheduler and vae to `folder` (made where missing). The
// same bytes for the same seed. Pictures are 8 x 8 with one channel.
void WriteTinyTeacher(const std::string& folder, uint64_t seed = 1);

}  // namespace d2g::testing
